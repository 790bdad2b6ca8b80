"""A command as the file writes it: a list of words, or one text that is split as a shell splits it."""

from __future__ import annotations

import shlex

from hostmanager_server.config.document import ListNode, Node
from hostmanager_server.config.reader import Reader


def read_command(reader: Reader, node: Node, what: str) -> tuple[str, ...] | None:
    """The words of a command, the program first. No shell is involved: quotes group, and nothing expands."""
    words = _words(reader, node, what)
    if words is None:
        return None
    if not words or not words[0]:
        reader.error(node, f"{what} must name a program")
        return None
    return words


def _words(reader: Reader, node: Node, what: str) -> tuple[str, ...] | None:
    if isinstance(node, ListNode):
        return tuple(word.text for word in reader.words(node, what))
    text = reader.text(node, what)
    if text is None:
        return None
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        reason = str(error).lower()
        reader.error(node, f"{what} cannot be split into words ({reason}); quote it whole, or give a list")
        return None
