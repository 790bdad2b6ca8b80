"""The command line `hostmanager`: entry point and last error boundary.

To keep commands quick, modules here import only modules that every command needs.
"""

from __future__ import annotations

import gc
import os
import sys

# Set to show the traceback of an error.
DEBUG_VARIABLE = "HOSTMANAGER_DEBUG"
PROGRAM = "hostmanager"

# failure.py has the other exit codes; its import fails if a dependency is missing.
FAILED = 1
BUG = 70  # EX_SOFTWARE of sysexits.h

# Objects made between two runs of the garbage collector. With the default of 700 the collector runs about
# sixty times while modules load, and finds nothing.
_COLLECT_AFTER = 10_000


def main() -> None:
    """Run the command line and exit with its code; docs/reference/exit-codes.md lists them."""
    gc.set_threshold(_COLLECT_AFTER)
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    try:
        import click

        from hostmanager_client.cli.app import cli
        from hostmanager_client.cli.failure import INTERRUPTED, pipe_closed
        from hostmanager_client.cli.output import end_styles, protect_terminals

        protect_terminals()
    except Exception as error:  # a dependency is missing or has the wrong version
        if debug:
            raise
        sys.exit(_report(error))
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
        end_styles()
        sys.stdout.flush()
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        if debug:
            import traceback

            traceback.print_exc()
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        code = pipe_closed()
    except Exception as error:  # the last boundary: users get no traceback
        if debug:
            raise
        code = _report(error)
    finally:
        gc.freeze()  # skips the last collection, a tenth of the time of a short command
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print a failure of the installation or of this program; return the exit code."""
    from hostmanager_client.cli.escape import one_line
    from hostmanager_client.cli.installation import describe_unmet, unmet_requirements

    if unmet := unmet_requirements(PROGRAM):
        print(f"Error: {describe_unmet(PROGRAM, error, unmet)}", file=sys.stderr)
        return FAILED
    print(
        f"Error: {PROGRAM} failed ({type(error).__name__}: {one_line(str(error))}). This is a bug; "
        f"{DEBUG_VARIABLE}=1 shows the traceback",
        file=sys.stderr,
    )
    return BUG
