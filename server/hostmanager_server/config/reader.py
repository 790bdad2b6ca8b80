"""YAML read with the place of every value, so that each problem has a file, a line and a column."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hostmanager_server.core.actions import Severity
from hostmanager_server.core.manager import Problem

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where it is present
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?\Z")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(?:i?[bB])?\Z")
_UNITS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping: the key's node, for its place, and the value's."""

    key: Node
    value: Node


class Reader:
    """Reads typed values, and collects what is wrong with them. A reading method answers None, or the given
    default, after it has noted a problem."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    # --- problems

    def error(self, node: Node | None, message: str) -> None:
        self._note(Severity.ERROR, node, message)

    def warn(self, node: Node | None, message: str) -> None:
        self._note(Severity.WARNING, node, message)

    def _note(self, severity: Severity, node: Node | None, message: str) -> None:
        line = column = 0
        if node is not None:
            line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.problems.append(Problem(severity, message, self.file, line, column))

    @property
    def failed(self) -> bool:
        return any(problem.severity is Severity.ERROR for problem in self.problems)

    # --- the document

    def document(self) -> Node | None:
        """The file's only document."""
        try:
            data = Path(self.file).read_bytes()
        except OSError as error:
            self.error(None, f"cannot be read: {error.strerror}")
            return None
        try:
            node: Node | None = yaml.compose(data.decode("utf-8-sig"), Loader=_Loader)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
            self.problems.append(Problem(Severity.ERROR, "is not UTF-8 text here", self.file, line, column))
            return None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
            text = f"is not valid YAML: {error.problem or error.context or error}"
            self.problems.append(Problem(Severity.ERROR, text, self.file, *where))
            return None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.error(None, f"is not valid YAML: {error}")
            return None
        if node is None:
            self.error(None, "is empty; it needs `hosts`, with an entry for this host")
        return node

    # --- mappings and lists

    def mapping(self, node: Node, what: str) -> dict[str, Entry]:
        """A mapping with text keys, each at most once; YAML's merge key `<<` is followed."""
        if not isinstance(node, MappingNode):
            if not is_null(node):
                self.error(node, f"{what} must be a mapping (key: value), not {_kind(node)}")
            return {}
        found: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    if source is not node:
                        merged = {**self._merge(source, what), **merged}
            elif not isinstance(key, ScalarNode):
                self.error(key, f"a key of {what} must be a word, not {_kind(key)}")
            elif key.value in found:
                first = found[key.value].key.start_mark.line + 1
                self.error(key, f"{what} has the key {key.value!r} twice (first in line {first})")
            else:
                found[key.value] = Entry(key, value)
        return {**merged, **found}

    def _merge(self, node: Node, what: str) -> dict[str, Entry]:
        try:
            return self.mapping(node, f"what is merged into {what}")
        except RecursionError:
            self.error(node, f"{what} merges itself")
            return {}

    def sequence(self, node: Node, what: str) -> list[Node]:
        if isinstance(node, SequenceNode):
            return list(node.value)
        if not is_null(node):
            self.error(node, f"{what} must be a list, not {_kind(node)}")
        return []

    def check_keys(self, entries: Mapping[str, Entry], known: Iterable[str], what: str) -> None:
        """A warning, with a suggestion, for every key that means nothing."""
        names = sorted(known)
        for name, entry in entries.items():
            if name not in names:
                hint = suggest(name, names) or f"known: {', '.join(names)}"
                self.warn(entry.key, f"unknown key {name!r} in {what} is ignored ({hint})")

    # --- scalars

    def text(self, node: Node, what: str, default: str = "") -> str:
        """A text; what YAML takes for a number or a boolean is taken as it is written."""
        if isinstance(node, ScalarNode) and not is_null(node):
            return str(node.value)
        self.error(node, f"{what} must be a text, not {_kind(node)}")
        return default

    def words(self, node: Node, what: str) -> list[str]:
        """A list of texts, nested lists flattened, as OCS takes `arguments`."""
        found: list[str] = []
        self._flatten(node, what, found, 0)
        return found

    def _flatten(self, node: Node, what: str, found: list[str], depth: int) -> None:
        if len(found) > 10_000 or depth > 20:
            self.error(node, f"{what} is nested too deeply, or has too many entries")
        elif isinstance(node, SequenceNode):
            for child in node.value:
                self._flatten(child, what, found, depth + 1)
        elif isinstance(node, ScalarNode):
            found.append(str(node.value))
        else:
            self.error(node, f"{what} must be a list of texts; {_kind(node)} is none")

    def number(self, node: Node, what: str, low: float, high: float, default: float) -> float:
        """A number from low to high."""
        try:
            value = float(node.value) if isinstance(node, ScalarNode) else None
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            self.error(node, f"{what} must be a number from {low:g} to {high:g}, not {_kind(node)}")
            return default
        return value

    def whole(self, node: Node, what: str, low: int, high: int, default: int) -> int:
        """A whole number from low to high."""
        text = node.value if isinstance(node, ScalarNode) else ""
        if re.fullmatch(r"[+-]?\d{1,19}", text) and low <= int(text) <= high:
            return int(text)
        self.error(node, f"{what} must be a whole number from {low} to {high}, not {_kind(node)}")
        return default

    def seconds(self, node: Node, what: str, low: float, high: float, default: float) -> float:
        """A duration: a number of seconds, or a text such as 500ms, 2s, 1m30s, 1h."""
        text = str(node.value).replace(" ", "") if isinstance(node, ScalarNode) else ""
        value: float | None = None
        match = _DURATION.match(text) if text else None
        if match is not None:
            hours, minutes, secs, millis = (float(group or 0) for group in match.groups())
            value = hours * 3600 + minutes * 60 + secs + millis / 1000
        else:
            try:
                value = float(text)
            except ValueError:
                value = None
        if value is None or not low <= value <= high:
            self.error(
                node,
                f"{what} must be a time from {low:g} to {high:g} seconds, such as 10, 500ms or 1m30s, "
                f"not {_kind(node)}",
            )
            return default
        return value

    def size(self, node: Node, what: str, low: int, high: int, default: int) -> int:
        """A size in bytes: a number, or a text such as 512k, 10M, 1G (powers of 1024)."""
        match = _SIZE.match(str(node.value)) if isinstance(node, ScalarNode) else None
        value = int(float(match[1]) * 1024 ** _UNITS[match[2]]) if match is not None else -1
        if not low <= value <= high:
            self.error(
                node,
                f"{what} must be a size from {low} to {high} bytes, such as 512k or 10M, not {_kind(node)}",
            )
            return default
        return value


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?`, or nothing when nothing is close."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else ""


def is_null(node: Node) -> bool:
    """Whether nothing was given: `key:` with no value, or null."""
    return isinstance(node, ScalarNode) and node.tag == _NULL


def _kind(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return "nothing" if is_null(node) else repr(node.value)
