"""Exit codes and error output of failed commands."""

from __future__ import annotations

import os
import sys

from hostmanager_client import errors
from hostmanager_client.cli import FAILED
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_json, print_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import click

USAGE = 2
UNREACHABLE = 3
NOT_FOUND = 4
PRECONDITION = 5
PERMISSION = 6
PIPE_CLOSED = 141  # 128 + SIGPIPE

EXIT_CODES = """\
\b
Exit codes:
  0    done
  1    refused, failed, target not reached, or not as wanted (why)
  2    wrong command line
  3    no answer from the daemon
  4    no such instance
  5    wrong state of the manager, or the site config is not usable
  6    permission denied
  7    something is wrong (status --check, status --failing)
  70   a bug of this program
  130  interrupted (Ctrl-C)
  141  the reader of the output closed the pipe"""

_CODES: tuple[tuple[type[errors.HostManagerError], int], ...] = (
    (errors.Unreachable, UNREACHABLE),
    (errors.DeadlineExceeded, UNREACHABLE),
    (errors.InvalidAddress, USAGE),
    (errors.NotFound, NOT_FOUND),
    (errors.PreconditionFailed, PRECONDITION),
    (errors.Aborted, PRECONDITION),
    (errors.PermissionDenied, PERMISSION),
)


# The remedy for a reason of the daemon, as a command.
_HINTS = {
    "MANAGER_STOPPED": "`hostmanager manager start`",
}


def exit_code(error: errors.HostManagerError) -> int:
    """Return the exit code for an error; FAILED unless the error has its own."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def pipe_closed() -> int:
    """Discard the remaining output, as its reader closed the pipe; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def show_error(error: errors.HostManagerError, *, as_json: bool) -> None:
    """Print an error on standard error."""
    if as_json:
        print_json(error_json(error), err=True)
        return
    first, *more = error_lines(error)
    print_line(f"Error: {first}", err=True)
    for line in more:
        print_line(f"  {line}", err=True)


def error_lines(error: errors.HostManagerError) -> list[str]:
    """Return an error with its remedy, and a line for each violation that the message does not name."""
    hint = _HINTS.get(error.reason, "")
    return [
        f"{one_line(str(error))}{hint and f' ({hint})'}",
        *(
            one_line(f"{violation.field}: {violation.description}")
            for violation in error.violations
            if violation.description not in error.message
        ),
    ]


def error_json(error: errors.HostManagerError) -> dict[str, Any]:
    """Return the document that --json prints on standard error."""
    body: dict[str, Any] = {
        "kind": type(error).__name__,
        "message": str(error),
        "reason": error.reason,
        "violations": [{"field": v.field, "description": v.description} for v in error.violations],
    }
    if isinstance(error, errors.TargetNotReached):
        body["unreached"] = [unreached_json(one) for one in error.unreached]
    return {"error": body}


def usage_error_json(error: click.ClickException) -> dict[str, Any]:
    """Return the document for a wrong command line, or for another failure that a command reports itself."""
    import click

    wrong = isinstance(error, click.UsageError)
    return {
        "error": {
            "kind": "UsageError" if wrong else "Failed",
            "message": error.format_message(),
            "reason": "WRONG_COMMAND_LINE" if wrong else "FAILED",
            "violations": [],
        }
    }


def unreached_json(one: errors.Unreached) -> dict[str, Any]:
    """Return an instance that did not reach its target, as JSON values."""
    return {
        "instance_id": one.instance_id,
        "state": one.state,
        "reason": one.reason,
        "message": one.message,
        "hopeless": one.hopeless,
    }
