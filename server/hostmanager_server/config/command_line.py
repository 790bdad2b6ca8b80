"""Commands in the site config: a list of words, or one text to split."""

from __future__ import annotations

import shlex

from hostmanager_server.config.document import ListNode, Node
from hostmanager_server.config.node_reader import Reader


def read_command(reader: Reader, node: Node, label: str) -> tuple[str, ...] | None:
    """Return the words of a command, the program first, or None after an error.

    A text is split as a shell does, but no shell takes part: quotes group words, and no variable or pattern
    expands.
    """
    words = _words(reader, node, label)
    if words is None:
        return None
    if not words or not words[0]:
        reader.error(node, f"{label} must name a program")
        return None
    return words


def _words(reader: Reader, node: Node, label: str) -> tuple[str, ...] | None:
    if isinstance(node, ListNode):
        return tuple(word.text for word in reader.words(node, label))
    text = reader.text(node, label)
    if text is None:
        return None
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        reason = str(error).lower()
        reader.error(
            node, f"{label} cannot be split into words ({reason}); quote the text, or give a list of words"
        )
        return None
