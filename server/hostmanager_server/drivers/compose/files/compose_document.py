"""YAML of compose files as plain values, loaded within fixed limits.

PyYAML composes by recursion. Its C code has no depth check, so some ten thousand levels end the process;
its Python code raises RecursionError. Merge keys repeat the values of their aliases. The parser's events
show both cases in advance.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml
from hostmanager.values import dataclass

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]  # the same interface, slower

MAX_DEPTH = 64  # compose itself needs about ten
MAX_NODES = 500_000  # each alias counts with all values of its anchor
_KNOWN_WORDS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")


class BoundsError(yaml.YAMLError):
    """A document that is nested too deep, has too many values, or contains itself."""


class ComposeLoader(SafeLoader):
    """A loader that ignores compose's tags and keeps every plain word as text.

    The tags are !reset and !override.

    YAML 1.1, PyYAML's version, reads `on` as a boolean and `010` as eight, and rejects `2026-13-01`.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - the base class declares it so
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _KNOWN_WORDS]
        for first, resolvers in SafeLoader.yaml_implicit_resolvers.items()
    }


def _untagged(loader: ComposeLoader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


def _typed(loader: ComposeLoader, node: yaml.Node) -> object:
    return _untagged(loader, "", node)


ComposeLoader.add_multi_constructor("!", _untagged)
for _name in ("bool", "int", "float", "timestamp"):  # as explicit tags
    ComposeLoader.add_constructor(f"tag:yaml.org,2002:{_name}", _typed)


def load_document(text: str | bytes) -> object:
    """Load the only document of a text.

    Numbers and booleans stay strings. Raises yaml.YAMLError for an invalid text or a text beyond the limits.
    """
    try:
        check_bounds(yaml.parse(text, Loader=SafeLoader))
        return yaml.load(text, Loader=ComposeLoader)
    except ValueError as error:  # bytes outside the encoding
        raise yaml.YAMLError(str(error)) from error


@dataclass(slots=True)
class _OpenCollection:
    """A collection before its end event: its anchor, values and levels so far."""

    anchor: str | None
    size: int = 1
    height: int = 0

    def add(self, size: int, height: int) -> None:
        """Count a value of `size` nodes and `height` levels."""
        self.size += size
        self.height = max(self.height, height)


def check_bounds(events: Iterable[Any]) -> None:
    """Check the parser's events; raise BoundsError beyond the limits."""
    complete: dict[str, tuple[int, int]] = {}
    stack = [_OpenCollection(None)]
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(_OpenCollection(event.anchor))
            complete.pop(event.anchor or "", None)
            if len(stack) - 1 > MAX_DEPTH:
                raise _too_deep(event)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            ended = stack.pop()
            anchor, size, height = ended.anchor, ended.size, ended.height + 1
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == one.anchor for one in stack):
                raise _error(event, f"has the alias *{event.anchor} within the value of its own anchor")
            anchor, (size, height) = None, complete.get(event.anchor or "", (1, 0))
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size, height = event.anchor, 1, 0
        else:
            continue
        if anchor is not None:
            complete[anchor] = size, height
        stack[-1].add(size, height)
        if stack[-1].size > MAX_NODES:
            raise _error(event, f"has more than {MAX_NODES} values, those of aliases included")
        if len(stack) - 1 + height > MAX_DEPTH:
            raise _too_deep(event)


def _too_deep(event: Any) -> BoundsError:
    return _error(event, f"is nested more than {MAX_DEPTH} levels deep")


def _error(event: Any, message: str) -> BoundsError:
    mark = event.start_mark
    return BoundsError(f"{message} at line {mark.line + 1}, column {mark.column + 1}")
