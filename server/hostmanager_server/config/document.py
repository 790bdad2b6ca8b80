"""A YAML document as nodes that know their place, composed within limits that no file can exceed.

PyYAML's own composer recurses as deep as the file says, in C without a check: nesting some ten thousand
levels deep ends the process. This one is fed the parser's events, and stops at a depth, at a number of values
(each alias counted with all that it stands for) and at what this configuration has no use for: tags, a second
document, values that contain themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import yaml

MAX_DEPTH = 64
MAX_NODES = 500_000  # some 20,000 instances; composing so many takes seconds

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where it is present
# What YAML allows in a document, as PyYAML has it.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp"))
# The words of YAML 1.1 that stand for something else than themselves when they are not quoted.
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = frozenset(
    spelling
    for word in ("yes", "no", "on", "off", "true", "false")
    for spelling in (word, word.capitalize(), word.upper())
)


class DocumentError(Exception):
    """Why a file is no usable document: `line` and `column` from 1, or 0 when that has no place in it."""

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


class TooDeepError(DocumentError):
    """A document whose values are nested more than MAX_DEPTH levels deep."""


class NodeKind(Enum):
    """What YAML takes a scalar for, as far as it matters here."""

    NULL = "null"
    BOOLEAN = "boolean"
    MERGE = "merge"  # the key <<
    TEXT = "text"  # anything else, numbers among it


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value, as it is written."""

    line: int
    column: int
    text: str
    kind: NodeKind = NodeKind.TEXT

    @property
    def size(self) -> int:
        return 1

    @property
    def height(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class ListNode:
    """A YAML sequence: `size` values, its aliases' and itself included, in `height` levels."""

    line: int
    column: int
    items: tuple[Node, ...]
    size: int
    height: int


@dataclass(frozen=True, slots=True)
class MapNode:
    """A YAML mapping, its pairs in the file's order, repeated keys among them."""

    line: int
    column: int
    pairs: tuple[tuple[Node, Node], ...]
    size: int
    height: int


Node = Scalar | ListNode | MapNode


def compose(text: str) -> Node | None:
    """The only document of a text; None when there is none. Raises DocumentError."""
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        line, column = _place(text, forbidden.start())
        code = f"U+{ord(forbidden[0]):04X}"
        raise DocumentError(f"has the character {code} here, which YAML does not allow", line, column)
    try:
        return _parse(text)
    except yaml.MarkedYAMLError as error:
        raise _too_deep_before(error, text) or _syntax_error(error, text) from error
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(f"is not valid YAML: {error}") from error


def _parse(text: str) -> Node | None:
    return _Composer(yaml.parse(text, Loader=_LOADER)).document()


def _too_deep_before(error: yaml.MarkedYAMLError, text: str) -> TooDeepError | None:
    """Find the nesting limit of this module before the place that a parser's error names.

    A parser reads ahead: the limits of libyaml (1,000 levels since its 0.2.6) and mistakes further on reach
    the caller before the events that show the nesting. Without the text from there on, those events come
    first.
    """
    if error.problem_mark is None:
        return None
    try:
        _parse(text[: error.problem_mark.index])
    except TooDeepError as deep:
        return deep
    except (DocumentError, yaml.YAMLError, ValueError):
        pass  # the text ends in the middle of something
    return None


@dataclass(slots=True)
class _Composer:
    events: Iterator[Any]
    anchors: dict[str, Node | None] = field(default_factory=dict)  # None: not complete yet
    count: int = 0

    def document(self) -> Node | None:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        node = self._node(next(self.events), 0)
        next(self.events)  # the end of the document
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise _error(following, "starts a second document here; a site config is a single one")
        return None if isinstance(node, Scalar) and node.kind is NodeKind.NULL else node

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self.count += 1
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = self._fresh(event, depth)
        if max(self.count, node.size) > MAX_NODES:
            raise _error(event, f"has more than {MAX_NODES} values up to here, those of aliases included")
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            raise _error(event, f"has the alias *{event.anchor} here, and no &{event.anchor} before it")
        node = self.anchors[event.anchor]
        if node is None:
            raise _error(event, f"has the alias *{event.anchor} within the value that it stands for")
        return node

    def _fresh(self, event: Any, depth: int) -> Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(line, column, event.value, _kind(event))
        if depth >= MAX_DEPTH:
            raise _too_deep(event)
        is_list = isinstance(event, yaml.SequenceStartEvent)
        _check_tag(event, "seq" if is_list else "map")
        nodes = tuple(self._nodes(depth))
        size = 1 + sum(node.size for node in nodes)
        height = 1 + max((node.height for node in nodes), default=0)
        if height > MAX_DEPTH:  # by its aliases
            raise _too_deep(event)
        if is_list:
            return ListNode(line, column, nodes, size, height)
        return MapNode(line, column, tuple(zip(nodes[::2], nodes[1::2], strict=True)), size, height)

    def _nodes(self, depth: int) -> Iterator[Node]:
        for event in self.events:
            if isinstance(event, yaml.CollectionEndEvent):
                return
            yield self._node(event, depth + 1)


def _too_deep(event: Any) -> TooDeepError:
    message = f"is nested more than {MAX_DEPTH} levels deep here"
    return TooDeepError(message, event.start_mark.line + 1, event.start_mark.column + 1)


def _kind(event: Any) -> NodeKind:
    if event.tag in (None, "!"):
        if not event.implicit[0]:  # quoted
            return NodeKind.TEXT
        if event.value in _NULLS:
            return NodeKind.NULL
        if event.value in _BOOLEANS:
            return NodeKind.BOOLEAN
        return NodeKind.MERGE if event.value == "<<" else NodeKind.TEXT
    if event.tag not in _SCALAR_TAGS:
        raise _bad_tag(event)
    return {"null": NodeKind.NULL, "bool": NodeKind.BOOLEAN}.get(event.tag.removeprefix(_TAG), NodeKind.TEXT)


def _check_tag(event: Any, name: str) -> None:
    if event.tag not in (None, "!", _TAG + name):
        raise _bad_tag(event)


def _bad_tag(event: Any) -> DocumentError:
    tag = event.tag.replace(_TAG, "!!")
    return _error(event, f"has the tag {tag[:60]!r} here; tags have no meaning in a site config")


def _error(event: Any, message: str) -> DocumentError:
    return DocumentError(message, event.start_mark.line + 1, event.start_mark.column + 1)


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> DocumentError:
    start, mark = error.context_mark, error.problem_mark or error.context_mark
    if mark is None:
        return DocumentError(f"is not valid YAML: {error.problem or error.context}")
    parts = [error.problem or "it cannot be parsed"]
    if error.context:
        since = f" (from line {start.line + 1})" if start is not None and start.line != mark.line else ""
        parts.insert(0, f"{error.context}{since}")
    line = (text.splitlines()[mark.line : mark.line + 1] or [""])[0]
    if line[mark.column : mark.column + 1] == "\t":
        parts.append("the character is a tab, and YAML is indented with blanks")
    return DocumentError(f"is not valid YAML: {', '.join(parts)}", mark.line + 1, mark.column + 1)


def _place(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1
