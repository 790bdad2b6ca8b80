"""YAML documents as nodes with line and column, within limits of size.

PyYAML's composer recurses as deep as the file demands, in C without a check: nesting some ten thousand levels
deep ends the process. The composer here reads the parser's events. The composer refuses documents that are
too deep or have too many values (each alias counts with all its values), and features for which a site config
has no use: tags, a second document, values that contain themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

import yaml
from hostmanager.values import dataclass, field

MAX_DEPTH = 64
# Nodes of an included file have lines from a multiple of this number on.
LINES_PER_FILE = 1 << 32
MAX_NODES = 500_000  # some 20,000 instances; composing them takes seconds

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where installed
# The complement of the characters that YAML allows in a document, as in PyYAML's reader.py.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp"))
# Unquoted, these words of YAML 1.1 mean null or a boolean.
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = frozenset(
    spelling
    for word in ("yes", "no", "on", "off", "true", "false")
    for spelling in (word, word.capitalize(), word.upper())
)


class DocumentError(Exception):
    """A file that is no usable document.

    `line` and `column` count from 1; both are 0 if the error has no place in the file.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


class TooDeepError(DocumentError):
    """A document with values nested more than MAX_DEPTH levels deep."""


class NodeKind(Enum):
    """The types of a YAML scalar that matter in a site config."""

    NULL = "null"
    BOOLEAN = "boolean"
    MERGE = "merge"  # the key <<
    TEXT = "text"  # all else, numbers included


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value, as written in the file."""

    line: int
    column: int
    text: str
    kind: NodeKind = NodeKind.TEXT

    @property
    def size(self) -> int:
        """Return the number of values: 1."""
        return 1

    @property
    def height(self) -> int:
        """Return the number of levels below: 0."""
        return 0


@dataclass(frozen=True, slots=True)
class KeptScalar(Scalar):
    """The marker of a value that an earlier reading kept; it counts with all values below."""

    kept_size: int = 1
    kept_height: int = 0

    @property
    def size(self) -> int:
        """Return the number of values, those below included."""
        return self.kept_size

    @property
    def height(self) -> int:
        """Return the number of levels below."""
        return self.kept_height


@dataclass(frozen=True, slots=True)
class ListNode:
    """A YAML sequence of `size` values in `height` levels.

    `size` counts aliases and the sequence.
    """

    line: int
    column: int
    items: tuple[Node, ...]
    size: int
    height: int


@dataclass(frozen=True, slots=True)
class MapNode:
    """A YAML mapping, with its pairs in the order of the file, repeated keys included."""

    line: int
    column: int
    pairs: tuple[tuple[Node, Node], ...]
    size: int
    height: int


Node = Scalar | ListNode | MapNode


def compose(
    text: str, kept: Mapping[str, tuple[int, int]] = MappingProxyType({}), first_line: int = 0
) -> Node | None:
    """Return the only document of a text, or None if the text has none.

    `kept` has size and height of the values that markers in the text stand for. `first_line` is added to the
    lines of nodes. Raises DocumentError.
    """
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        line, column = _place(text, forbidden.start())
        code = f"U+{ord(forbidden[0]):04X}"
        raise DocumentError(
            f"the file has the character {code} here, which YAML does not allow", line, column
        )
    try:
        return _parse(text, kept, first_line)
    except yaml.MarkedYAMLError as error:
        raise _too_deep_before(error, text) or _syntax_error(error, text) from error
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(f"the file is not valid YAML: {error}") from error


def _parse(
    text: str, kept: Mapping[str, tuple[int, int]] = MappingProxyType({}), first_line: int = 0
) -> Node | None:
    return _Composer(yaml.parse(text, Loader=_LOADER), kept, first_line).document()


def _too_deep_before(error: yaml.MarkedYAMLError, text: str) -> TooDeepError | None:
    """Find an excess of depth before the place that a parser's error names.

    A parser reads ahead: errors at libyaml's own limit (1,000 levels since 0.2.6) and later in the text reach
    the caller before the events of the nesting. Without the text after the place of the error, these events
    come first.
    """
    if error.problem_mark is None:
        return None
    try:
        _parse(text[: error.problem_mark.index])
    except TooDeepError as deep:
        return deep
    except (DocumentError, yaml.YAMLError, ValueError):
        pass  # the cut text is incomplete
    return None


@dataclass(slots=True)
class _Composer:
    events: Iterator[Any]
    kept: Mapping[str, tuple[int, int]]
    first_line: int
    anchors: dict[str, Node | None] = field(default_factory=dict)  # None: the value is not complete yet
    texts: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def document(self) -> Node | None:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        node = self._node(next(self.events), 0)
        next(self.events)  # the end of the document
        following = next(self.events)
        if not isinstance(following, yaml.StreamEndEvent):
            raise _error(
                following, "the file starts a second document here; a site config is a single document"
            )
        return None if isinstance(node, Scalar) and node.kind is NodeKind.NULL else node

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        self.count += 1
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = self._fresh(event, depth)
        if max(self.count, node.size) > MAX_NODES:
            raise _error(
                event, f"the file has more than {MAX_NODES} values up to here, those of aliases included"
            )
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            raise _error(event, f"the file has the alias *{event.anchor} here, and no &{event.anchor} before")
        node = self.anchors[event.anchor]
        if node is None:
            raise _error(event, f"the file has the alias *{event.anchor} within its own value")
        return node

    def _fresh(self, event: Any, depth: int) -> Node:
        line, column = self.first_line + event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            if event.value in self.kept:
                size, height = self.kept[event.value]
                self.count += size - 1
                return KeptScalar(line, column, event.value, NodeKind.TEXT, size, height)
            # Keys and many values repeat: one text for all of them takes less memory.
            text = self.texts.setdefault(event.value, event.value)
            return Scalar(line, column, text, _kind(event))
        if depth >= MAX_DEPTH:
            raise _too_deep(event)
        is_list = isinstance(event, yaml.SequenceStartEvent)
        _check_tag(event, "seq" if is_list else "map")
        nodes = tuple(self._nodes(depth))
        size = 1 + sum(node.size for node in nodes)
        height = 1 + max((node.height for node in nodes), default=0)
        if height > MAX_DEPTH:  # through its aliases
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
    message = f"the file is nested more than {MAX_DEPTH} levels deep here"
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
    return _error(event, f"the file has the tag {tag[:60]!r} here; tags have no meaning in a site config")


def _error(event: Any, message: str) -> DocumentError:
    return DocumentError(message, event.start_mark.line + 1, event.start_mark.column + 1)


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> DocumentError:
    start, mark = error.context_mark, error.problem_mark or error.context_mark
    if mark is None:
        return DocumentError(f"the file is not valid YAML: {error.problem or error.context}")
    parts = [error.problem or "the text cannot be parsed"]
    if error.context:
        since = f" (from line {start.line + 1})" if start is not None and start.line != mark.line else ""
        parts.insert(0, f"{error.context}{since}")
    line = (text.splitlines()[mark.line : mark.line + 1] or [""])[0]
    if line[mark.column : mark.column + 1] == "\t":
        parts.append("the character is a tab, and YAML is indented with blanks")
    return DocumentError(f"the file is not valid YAML: {', '.join(parts)}", mark.line + 1, mark.column + 1)


def _place(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1
