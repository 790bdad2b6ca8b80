"""The command line `hostmanager`: entry point and last error boundary.

To keep commands quick, modules here import only modules that every command needs.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # `typing` has a cost that short commands need not pay
if TYPE_CHECKING:
    from typing import NoReturn

# Set to show the traceback of an error.
DEBUG_VARIABLE = "HOSTMANAGER_DEBUG"
PROGRAM = "hostmanager"

# failure.py has the other exit codes; its import fails if a dependency is missing.
FAILED = 1
TROUBLE = 7  # `status --check` or `status --failing` found something wrong
BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as in shells

# Objects made between two runs of the garbage collector. With the default of 700 the collector runs about
# sixty times while modules load, and finds nothing; at 10,000 it takes a tenth of the start of a daemon.
_COLLECT_AFTER = 100_000


def main() -> None:
    """Run the command line and exit with its code; docs/reference/exit-codes.md lists them."""
    gc.set_threshold(_COLLECT_AFTER)
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    code: object
    try:
        from hostmanager_client.cli.output import end_styles, protect_terminals

        protect_terminals()
        code = short = _run_brief_command()
        if code is None:
            code = _run_any_command(debug=debug)
        end_styles()
        sys.stdout.flush()
        if short is not None:
            _leave(short)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        from hostmanager_client.cli.failure import pipe_closed

        code = pipe_closed()
    except Exception as error:  # the last boundary: users get no traceback
        if debug:
            raise
        code = _report(error)
    finally:
        gc.freeze()  # skips the last collection, a tenth of the time of a short command
    sys.exit(code if isinstance(code, int) else 0)


def _leave(code: int) -> NoReturn:
    """Exit without the end of the interpreter, which takes a tenth of a short command.

    A short command has no threads, no open files and no handlers that wait for that end.
    """
    sys.stderr.flush()
    os._exit(code)


def _run_brief_command() -> int | None:
    from hostmanager_client.cli import brief

    return brief.run(sys.argv[1:])


def _run_any_command(*, debug: bool) -> object:
    from hostmanager import late_modules

    late_modules.install()
    import click

    from hostmanager_client.cli.app import cli

    sys.unraisablehook = _hide_half_made_call
    try:
        return cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        if debug:
            import traceback

            traceback.print_exc()
        if _wants_json():
            from hostmanager_client.cli.failure import usage_error_json
            from hostmanager_client.cli.output import print_json

            print_json(usage_error_json(error), err=True)
        else:
            error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED


def _wants_json() -> bool:
    """Return whether errors must be JSON; also for a command line with a mistake before --json."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _hide_half_made_call(unraisable: sys.UnraisableHookArgs) -> None:
    """Print an error that nothing can catch, but for gRPC's about a call that Ctrl-C cut short.

    gRPC 1.75 expects in `__del__` of a call that `__init__` has ended.
    """
    if getattr(unraisable.object, "__qualname__", "") != "_MultiThreadedRendezvous.__del__":
        sys.__unraisablehook__(unraisable)


def _report(error: Exception) -> int:
    """Print a failure of the installation or of this program; return the exit code."""
    from hostmanager_client.cli.escape import one_line
    from hostmanager_client.cli.installation import describe_unmet, unmet_requirements

    if unmet := unmet_requirements(PROGRAM):
        _print_failure("InstallationError", describe_unmet(PROGRAM, error, unmet), "UNMET_REQUIREMENTS")
        return FAILED
    text = (
        f"{PROGRAM} failed ({type(error).__name__}: {one_line(str(error))}). This is a bug; "
        f"{DEBUG_VARIABLE}=1 shows the traceback"
    )
    _print_failure("Bug", text, "BUG")
    return BUG


def _print_failure(kind: str, message: str, reason: str) -> None:
    """Print an error without any module that may be the cause."""
    text = f"Error: {message}"
    if _wants_json():
        import json

        body = {"kind": kind, "message": message, "reason": reason, "violations": []}
        text = json.dumps({"error": body})
    print(text, file=sys.stderr)
