"""Typed values read from the nodes of a document, with a problem at its place for each that is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hostmanager_server.config.document import ListNode, MapNode, Node, NodeKind, Scalar
from hostmanager_server.config.quantities import parse_duration, parse_number, parse_size, parse_whole
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem

# Each problem becomes an event and a line of the status: a file that is wrong throughout must not flood them.
MAX_PROBLEMS = 200
# Of `config check`, which has none of these to flood.
MAX_PROBLEMS_LISTED = 10_000
MAX_WORDS = 10_000
# Keys for whatever a file wants to keep, such as a value with an anchor; docker compose has the same rule.
EXTENSION = "x-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping: the key, for its place, and its value."""

    key: Scalar
    value: Node


class Reader:
    """Reads typed values and collects what is wrong. A method that reads a value answers None, or an empty
    collection, after it has noted a problem."""

    def __init__(self, file: str, most_problems: int = MAX_PROBLEMS) -> None:
        self.file = file
        self._most = most_problems
        self._problems: dict[Problem, None] = {}  # in order; what an alias repeats is said once
        self._dropped = 0
        self.failed = False

    def fork(self) -> Reader:
        """Another, which goes on from what this one has noted."""
        other = Reader(self.file, self._most)
        other._problems, other._dropped, other.failed = dict(self._problems), self._dropped, self.failed
        return other

    # --- problems

    def error(self, node: Node | None, message: str) -> None:
        """The file cannot be used."""
        self._note_at(Severity.ERROR, node, message)

    def warn(self, node: Node | None, message: str) -> None:
        """The file can be used, and does not say what its writer meant."""
        self._note_at(Severity.WARNING, node, message)

    def note(self, problem: Problem) -> None:
        self.failed = self.failed or problem.severity is Severity.ERROR
        if problem in self._problems:
            return
        if len(self._problems) < self._most:
            self._problems[problem] = None
        else:
            self._dropped += 1

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All of them; beyond the most that there may be, their number."""
        if not self._dropped:
            return tuple(self._problems)
        severity = Severity.ERROR if self.failed else Severity.WARNING
        return (*self._problems, Problem(severity, f"has {self._dropped} more problems", self.file))

    def _note_at(self, severity: Severity, node: Node | None, message: str) -> None:
        line, column = (node.line, node.column) if node is not None else (0, 0)
        self.note(Problem(severity, message, self.file, line, column))

    # --- collections

    def mapping(self, node: Node, what: str) -> dict[str, Entry]:
        """A mapping with words for keys, each at most once; YAML's merge key `<<` is followed."""
        if isinstance(node, MapNode):
            return self._entries(node, what)
        if not is_null(node):
            self.error(node, f"{what} must be a mapping (key: value), not {describe(node)}")
        return {}

    def _entries(self, node: MapNode, what: str) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.pairs:
            if not isinstance(key, Scalar):
                self.error(key, f"a key of {what} must be a word, not {describe(key)}")
            elif key.kind is NodeKind.MERGE:
                self._merge(value, what, merged)
            elif key.text in own:
                first = own[key.text].key.line
                self.error(key, f"{what} has the key {shown(key.text)} twice (first in line {first})")
            else:
                own[key.text] = Entry(key, value)
        return {**merged, **own}

    def _merge(self, value: Node, what: str, merged: dict[str, Entry]) -> None:
        for source in value.items if isinstance(value, ListNode) else (value,):
            if not isinstance(source, MapNode):
                self.error(source, f"only a mapping can be merged into {what}, not {describe(source)}")
                continue
            for name, entry in self._entries(source, what).items():
                merged.setdefault(name, entry)  # what is merged first wins

    def sequence(self, node: Node, what: str) -> tuple[Node, ...]:
        """A list; nothing given is an empty one."""
        if isinstance(node, ListNode):
            return node.items
        if not is_null(node):
            self.error(node, f"{what} must be a list, not {describe(node)}")
        return ()

    def words(self, node: Node, what: str) -> tuple[Scalar, ...]:
        """A list of texts, lists in it flattened, as OCS takes `arguments`."""
        found: list[Scalar] = []
        rest = list(reversed(self.sequence(node, what)))
        while rest and len(found) <= MAX_WORDS:
            item = rest.pop()
            if isinstance(item, ListNode):
                rest.extend(reversed(item.items))
            elif isinstance(item, Scalar) and self.text(item, f"an entry of {what}") is not None:
                found.append(item)
            elif isinstance(item, MapNode):
                self.error(item, f"an entry of {what} must be a text, not {describe(item)}")
        if len(found) > MAX_WORDS:
            self.error(node, f"{what} has more than {MAX_WORDS} entries")
        return tuple(found)

    def check_keys(self, entries: Mapping[str, Entry], known: Iterable[str], what: str) -> None:
        """A warning, with a suggestion, for every key that means nothing."""
        names = sorted(known)
        for name, entry in entries.items():
            if name not in names and not name.startswith(EXTENSION):
                hint = hint_at(name, names)
                self.warn(entry.key, f"unknown key {shown(name)} in {what} is ignored ({hint})")

    # --- scalars

    def text(self, node: Node, what: str) -> str | None:
        """A text. What YAML takes for a number or a boolean is taken as it is written."""
        if not isinstance(node, Scalar):
            self.error(node, f"{what} must be a text, not {describe(node)}")
        elif is_null(node):
            self.error(node, f"{what} has no value; write '' when an empty text is meant")
        elif "\0" in node.text:
            self.error(node, f"{what} has a NUL character, which no program can be given")
        else:
            return node.text
        return None

    def number(self, node: Node, what: str, low: float, high: float) -> float | None:
        """A number from low to high."""
        value = parse_number(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        self.error(node, f"{what} must be a number from {low:g} to {high:g}, not {describe(node)}")
        return None

    def whole(self, node: Node, what: str, low: int, high: int) -> int | None:
        """A whole number from low to high."""
        value = parse_whole(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        self.error(node, f"{what} must be a whole number from {low} to {high}, not {describe(node)}")
        return None

    def seconds(self, node: Node, what: str, low: float, high: float) -> float | None:
        """A duration in seconds, from low to high: see parse_duration."""
        value = parse_duration(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        range_ = f"from {low:g} to {high:g} seconds, such as 10, 500ms or 1m30s"
        self.error(node, f"{what} must be a time {range_}, not {describe(node)}")
        return None

    def size(self, node: Node, what: str, low: int, high: int) -> int | None:
        """A size in bytes, from low to high: see parse_size."""
        value = parse_size(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        range_ = f"from {low} to {high} bytes, such as 512k or 10M"
        self.error(node, f"{what} must be a size {range_}, not {describe(node)}")
        return None

    def choice(self, node: Node, what: str, known: Sequence[str]) -> str | None:
        """One of some words."""
        text = self.text(node, what)
        if text is None or text in known:
            return text
        close = suggest(text, known)
        listed = f"{', '.join(known[:-1])} or {known[-1]}"
        self.error(node, f"{what} must be {listed}, not {shown(text)}" + (f" ({close})" if close else ""))
        return None


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?`, or nothing when nothing is close."""
    by_fold = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word[:100].casefold(), list(by_fold), 1)
    return f"did you mean {by_fold[close[0]]!r}?" if close else ""


def hint_at(word: str, known: Iterable[str], most: int = 15) -> str:
    """What was probably meant, else what is known."""
    names = list(known)
    listed = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    return suggest(word, names) or f"known: {listed or 'none'}"


def is_null(node: Node) -> bool:
    """Whether nothing was given: `key:` with no value, or null."""
    return isinstance(node, Scalar) and node.kind is NodeKind.NULL


def shown(text: str) -> str:
    """A text in a message: quoted, and not longer than a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def describe(node: Node) -> str:
    """What a node is, in a message."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    return "nothing" if is_null(node) else shown(node.text)
