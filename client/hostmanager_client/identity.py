"""The words with which a client introduces itself, as metadata of calls that change something.

The daemon verifies the pid and the user id where the kernel tells; the rest is shown as a claim.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hostmanager_client.calls import UnaryCall
    from hostmanager_client.streams import Stream

USER_KEY, PROGRAM_KEY, PID_KEY = "hostmanager-user", "hostmanager-program", "hostmanager-pid"
LONGEST = 64  # characters of each
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~ ()@+/")


def metadata_of(call: UnaryCall[Any] | Stream[Any]) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call or a stream: none unless it changes something."""
    return caller_metadata() if call.changes else ()


def caller_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata; values are percent-encoded UTF-8."""
    environ = os.environ
    user = next(filter(None, map(environ.get, ("SUDO_USER", "LOGNAME", "USER"))), "")
    pairs = ((USER_KEY, user), (PROGRAM_KEY, _program()), (PID_KEY, str(os.getpid())))
    return tuple((key, _encoded(value)) for key, value in pairs if value)


def _program() -> str:
    """Return the name of the program, with the subcommand of the command line."""
    arguments = getattr(sys, "argv", None) or [""]
    name = os.path.basename(str(arguments[0]))
    if name != "hostmanager":
        return name
    command = next((word for word in arguments[1:] if word.isalpha()), "")
    return f"{name} {command}".rstrip()


def _encoded(text: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text)[:LONGEST].strip()
    if _PLAIN.issuperset(shown):
        return shown
    return "".join(
        chr(byte) if chr(byte) in _PLAIN else f"%{byte:02X}" for byte in shown.encode("utf-8", "replace")
    )
