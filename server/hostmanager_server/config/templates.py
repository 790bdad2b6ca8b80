"""Copies of one entry of `agent-instances`: the key `instances`, and its placeholder."""

from __future__ import annotations

from collections.abc import Iterator

from hostmanager.values import replace

from hostmanager_server.config.document import ListNode, MapNode, Node, NodeKind, Scalar
from hostmanager_server.config.node_reader import Reader, describe, shown
from hostmanager_server.config.quantities import parse_whole

KEY = "instances"
PLACEHOLDER = "{instance}"
MAX_COPIES = 1000
_ID = "instance-id"


def copies(reader: Reader, node: Node) -> Iterator[Node]:
    """Yield the entry itself, or its copies: one for each number or word of the key `instances`.

    In each text of a copy the number or word takes the place of PLACEHOLDER. An id without placeholder gets
    a hyphen and the word at its end. All nodes keep their places in the file.
    """
    if not isinstance(node, MapNode) or not _may_have_copies(node):
        yield node
        return
    entries = reader.mapping(node, "an entry of 'agent-instances'")
    if KEY not in entries:
        yield node
        return
    plain = replace(node, pairs=tuple(pair for pair in node.pairs if not _is(pair[0], _ID)))
    identity = entries.get(_ID)
    for word in _words(
        reader, entries[KEY].value, f"{KEY!r} of {_label(None if identity is None else identity.value)}"
    ):
        copy = _with_word(plain, word)
        assert isinstance(copy, MapNode)
        if identity is not None:
            pair = identity.key, _id_of_copy(identity.value, word)
            copy = replace(copy, pairs=(pair, *copy.pairs))
        yield copy


def _may_have_copies(node: MapNode) -> bool:
    return any(
        isinstance(key, Scalar) and (key.text == KEY or key.kind is NodeKind.MERGE) for key, _ in node.pairs
    )


def _is(key: Node, name: str) -> bool:
    return isinstance(key, Scalar) and key.text == name


def _label(identity: Node | None) -> str:
    return f"instance {describe(identity)}" if identity is not None else "an entry of 'agent-instances'"


def _words(reader: Reader, node: Node, label: str) -> list[str]:
    """Return the numbers from 1, or the words of a list; none after an error."""
    if isinstance(node, ListNode):
        words = [reader.text(child, f"an entry of {label}") for child in node.items]
        found = [word for word in words if word is not None]
        if 0 < len(found) <= MAX_COPIES:
            return list(dict.fromkeys(found)) if _all_differ(reader, node, found, label) else []
        if len(found) == len(words):
            reader.error(node, f"{label} must have 1 to {MAX_COPIES} words, not {len(words)}")
        return []
    number = parse_whole(node.text) if isinstance(node, Scalar) else None
    if number is not None and 1 <= number <= MAX_COPIES:
        return [str(n) for n in range(1, number + 1)]
    reader.error(
        node, f"{label} must be a number from 1 to {MAX_COPIES}, or a list of words, not {describe(node)}"
    )
    return []


def _all_differ(reader: Reader, node: ListNode, words: list[str], label: str) -> bool:
    seen: set[str] = set()
    for child, word in zip(node.items, words, strict=False):
        if word in seen:
            reader.error(child, f"{label} has {shown(word)} twice")
            return False
        seen.add(word)
    return True


def _id_of_copy(node: Node, word: str) -> Node:
    if isinstance(node, Scalar) and node.kind is not NodeKind.NULL and PLACEHOLDER not in node.text:
        return replace(node, text=f"{node.text}-{word}", kind=NodeKind.TEXT)
    return _with_word(node, word)


def _with_word(node: Node, word: str) -> Node:
    """Return the node with the word in place of each placeholder; the same node if there is none."""
    match node:
        case Scalar():
            if PLACEHOLDER not in node.text:
                return node
            return replace(node, text=node.text.replace(PLACEHOLDER, word), kind=NodeKind.TEXT)
        case ListNode():
            items = tuple(_with_word(item, word) for item in node.items)
            return node if items == node.items else replace(node, items=items)
        case MapNode():
            pairs = tuple((_with_word(key, word), _with_word(value, word)) for key, value in node.pairs)
            return node if pairs == node.pairs else replace(node, pairs=pairs)
