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

# Objects made until the garbage collector looks for cycles. Python's own 700 has it look some sixty times
# while modules load, and find nothing.
_COLLECT_AFTER = 10_000


def main() -> None:
    """Run the command line, and exit with its code. See docs/cli.md for the codes."""
    gc.set_threshold(_COLLECT_AFTER)
    import click

    from hostmanager_client.cli.app import cli
    from hostmanager_client.cli.failure import BUG, INTERRUPTED, pipe_closed

    debug = bool(os.environ.get(DEBUG_VARIABLE))
    try:
        code = cli.main(prog_name=PROGRAM, standalone_mode=False)
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
        name = type(error).__name__
        print(
            f"Error: {PROGRAM} failed at this ({name}: {error}). This is a bug; "
            f"{DEBUG_VARIABLE}=1 shows where it is",
            file=sys.stderr,
        )
        code = BUG
    finally:
        gc.freeze()  # a last collection, of all that was loaded, would take a tenth of a short command's time
    sys.exit(code if isinstance(code, int) else 0)
