"""Keys for properties of a process: `group`, `nice`, `stop-signal`, `success-codes`, `umask` and `user`."""

from __future__ import annotations

import re
import signal

from hostmanager_server.config.document import ListNode, Node, Scalar
from hostmanager_server.config.node_reader import Reader, describe, shown, suggest
from hostmanager_server.config.quantities import parse_whole
from hostmanager_server.core.signals import parse_signal, signal_names

NICE = (-20, 19)
_UMASK = re.compile(r"(?:0o?)?[0-7]{1,3}", re.ASCII)
_MAX_CODE = 255
_MOST_CODES = 256


def read_user(reader: Reader, node: Node, label: str) -> str | None:
    """Return the name or number of a user."""
    return _account(reader, node, label, "user")


def read_group(reader: Reader, node: Node, label: str) -> str | None:
    """Return the name or number of a group."""
    return _account(reader, node, label, "group")


def _account(reader: Reader, node: Node, label: str, what: str) -> str | None:
    text = reader.text(node, label)
    if text == "":
        reader.error(node, f"{label} must be a {what}'s name or number, not an empty text")
    return text or None


def read_umask(reader: Reader, node: Node, label: str) -> int | None:
    """Return the mode bits that new files lack, written as an octal number."""
    if isinstance(node, Scalar) and _UMASK.fullmatch(node.text):
        return int(node.text.removeprefix("0o"), 8)
    reader.error(node, f"{label} must be an octal number from 000 to 777, such as 027, not {describe(node)}")
    return None


def read_nice(reader: Reader, node: Node, label: str) -> int | None:
    """Return a nice value: -20, the most favourable, to 19."""
    return reader.whole(node, label, *NICE)


def read_signal(reader: Reader, node: Node, label: str) -> int | None:
    """Return the number of a signal, given by name or number."""
    text = reader.text(node, label)
    if text is None:
        return None
    number = parse_signal(text)
    if number is None:
        hint = suggest(text.upper(), signal_names()) if parse_whole(text) is None else ""
        reader.error(
            node,
            f"{label} must be a signal, not {shown(text)} ({hint or 'such as INT, TERM, RTMIN+3 or 15'})",
        )
    return number


def read_success_codes(reader: Reader, node: Node, label: str) -> tuple[int, ...] | None:
    """Return the ends that count as success, sorted: exit codes, and negative numbers of signals."""
    nodes = node.items if isinstance(node, ListNode) else (node,)
    if len(nodes) > _MOST_CODES:
        reader.error(node, f"{label} has more than {_MOST_CODES} entries")
        return None
    found = [_success_code(reader, child, label) for child in nodes]
    return tuple(sorted({code for code in found if code is not None}))


def _success_code(reader: Reader, node: Node, label: str) -> int | None:
    number = parse_whole(node.text) if isinstance(node, Scalar) else None
    if number is not None and 0 <= number <= _MAX_CODE:
        return number
    signum = parse_signal(node.text) if isinstance(node, Scalar) and number is None else None
    if signum in (signal.SIGKILL, signal.SIGSTOP):
        reader.error(node, f"{label} cannot have {shown(describe(node))}: an agent cannot end itself by it")
        return None
    if signum is not None:
        return -signum
    text = f"{label} takes exit codes from 0 to {_MAX_CODE} and names of signals, not {describe(node)}"
    hint = suggest(node.text.upper(), signal_names()) if isinstance(node, Scalar) and number is None else ""
    reader.error(node, f"{text} ({hint})" if hint else text)
    return None
