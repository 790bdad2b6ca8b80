"""The command line, `hostmanager`.

Nothing here may import what a command does not need: `hostmanager status` is to be quick.
"""

from __future__ import annotations

import gc
import os
import sys

# Set, it shows the traceback of what failed.
DEBUG_VARIABLE = "HOSTMANAGER_DEBUG"
PROGRAM = "hostmanager"

# Exit codes; failure.py has the others, and cannot be imported where what it needs is missing.
FAILED = 1
BUG = 70  # EX_SOFTWARE of sysexits.h

# Objects made until the garbage collector looks for cycles. Python's own 700 has it look some sixty times
# while modules load, and find nothing.
_COLLECT_AFTER = 10_000


def main() -> None:
    """Run the command line, and exit with its code. See docs/reference/cli.md for the codes."""
    gc.set_threshold(_COLLECT_AFTER)
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    try:
        import click

        from hostmanager_client.cli.app import cli
        from hostmanager_client.cli.failure import INTERRUPTED, pipe_closed
        from hostmanager_client.cli.output import end_styles, protect_terminals

        protect_terminals()
    except Exception as error:  # what it needs is missing, or of a version that it cannot use
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
    except Exception as error:  # the last boundary: no traceback is for users, whatever went wrong
        if debug:
            raise
        code = _report(error)
    finally:
        gc.freeze()  # a last collection, of all that was loaded, would take a tenth of a short command's time
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Tell of a failure without a traceback: of the installation, or else of this program. The exit code."""
    from hostmanager_client.cli.escape import one_line
    from hostmanager_client.cli.installation import explain, unmet_requirements

    if unmet := unmet_requirements(PROGRAM):
        print(f"Error: {explain(PROGRAM, error, unmet)}", file=sys.stderr)
        return FAILED
    print(
        f"Error: {PROGRAM} failed at this ({type(error).__name__}: {one_line(str(error))}). This is a bug; "
        f"{DEBUG_VARIABLE}=1 shows where it is",
        file=sys.stderr,
    )
    return BUG
