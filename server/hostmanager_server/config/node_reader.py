"""Typed values of a document's nodes, and problems with their places."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.config.document import LINES_PER_FILE, ListNode, MapNode, Node, NodeKind, Scalar
from hostmanager_server.config.machine import MachineFacts
from hostmanager_server.config.quantities import parse_duration, parse_number, parse_size, parse_whole
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem

# Each problem becomes an event and a line of the status: a file full of errors must not flood them.
MAX_PROBLEMS = 200
# For `config check`, which has neither events nor status.
MAX_PROBLEMS_LISTED = 10_000
MAX_WORDS = 10_000
# The prefix of keys that the reader ignores, such as for a value with an anchor; as in docker compose.
EXTENSION = "x-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping, with its place, and its value."""

    key: Scalar
    value: Node


class Reader:
    """Reads typed values and collects the problems.

    A method that reads a value returns None, or an empty collection, after an error. `label` names the value
    in messages.
    """

    def __init__(
        self, file: str, most_problems: int = MAX_PROBLEMS, machine: MachineFacts | None = None
    ) -> None:
        self.file = file
        self.machine = machine or MachineFacts()
        self._files = [file]  # the included ones behind it, by LINES_PER_FILE
        self._most = most_problems
        self._problems: dict[Problem, None] = {}  # in order, each once, also if aliases repeat a value
        self._dropped = 0
        self.failed = False
        self.file_failed = False  # an error belongs to no single entry
        self._entry: list[Problem] | None = None

    def fork(self) -> Reader:
        """Return another reader that starts with the problems of this one."""
        other = Reader(self.file, self._most, self.machine)
        other._files = list(self._files)
        other._problems, other._dropped, other.failed = dict(self._problems), self._dropped, self.failed
        other.file_failed = self.file_failed
        return other

    # --- places

    def add_file(self, path: str) -> int:
        """Add an included file; return the number by which LINES_PER_FILE counts its lines."""
        self._files.append(path)
        return len(self._files) - 1

    def place(self, node: Node) -> tuple[str, int]:
        """Return the file and the line of a node."""
        if node.line < 0:  # an entry of an earlier reading
            return self.file, node.line
        number, line = divmod(node.line, LINES_PER_FILE)
        return self._files[number], line

    def where(self, node: Node, seen_from: Node) -> str:
        """Return the line of a node in words, with its file if that is not the file of `seen_from`."""
        file, line = self.place(node)
        return f"line {line}" if file == self.place(seen_from)[0] else f"line {line} of {file}"

    def folder(self, node: Node) -> Path:
        """Return the folder of the file that has the node."""
        return Path(self.place(node)[0]).absolute().parent

    # --- problems

    def error(self, node: Node | None, message: str) -> None:
        """Note an error: the daemon cannot use the file."""
        self._note_at(Severity.ERROR, node, message)

    def warn(self, node: Node | None, message: str) -> None:
        """Note a warning: the file is usable, but probably has a mistake."""
        self._note_at(Severity.WARNING, node, message)

    def note(self, problem: Problem) -> None:
        """Note a problem once; only count problems beyond the maximum."""
        if problem.severity is Severity.ERROR:
            self.failed = True
            if self._entry is None:
                self.file_failed = True
            else:
                self._entry.append(problem)
        if problem in self._problems:
            return
        if len(self._problems) < self._most:
            self._problems[problem] = None
        else:
            self._dropped += 1

    @contextmanager
    def entry(self) -> Iterator[list[Problem]]:
        """Collect the errors of one entry; all errors outside of entries belong to the whole file."""
        outer, self._entry = self._entry, []
        try:
            yield self._entry
        finally:
            self._entry = outer

    @property
    def complete(self) -> bool:
        """Return whether `problems` has all noted problems, none dropped."""
        return not self._dropped

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the noted problems.

        A last problem has the number of the problems beyond the maximum.
        """
        if not self._dropped:
            return tuple(self._problems)
        severity = Severity.ERROR if self.failed else Severity.WARNING
        return (*self._problems, Problem(severity, f"the file has {self._dropped} more problems", self.file))

    def _note_at(self, severity: Severity, node: Node | None, message: str) -> None:
        if node is None:
            self.note(Problem(severity, message, self.file))
        else:
            file, line = self.place(node)
            self.note(Problem(severity, message, file, line, node.column))

    # --- collections

    def mapping(self, node: Node, label: str) -> dict[str, Entry]:
        """Return a mapping with words as keys, each at most once.

        The method follows YAML's merge key `<<`.
        """
        if isinstance(node, MapNode):
            return self._entries(node, label)
        if not is_null(node):
            self.error(node, f"{label} must be a mapping (key: value), not {describe(node)}")
        return {}

    def _entries(self, node: MapNode, label: str) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.pairs:
            if not isinstance(key, Scalar):
                self.error(key, f"a key of {label} must be a word, not {describe(key)}")
            elif key.kind is NodeKind.MERGE:
                self._merge(value, label, merged)
            elif key.text in own:
                first = self.where(own[key.text].key, key)
                self.error(key, f"{label} has the key {shown(key.text)} twice (first in {first})")
            else:
                own[key.text] = Entry(key, value)
        return {**merged, **own}

    def _merge(self, value: Node, label: str, merged: dict[str, Entry]) -> None:
        for source in value.items if isinstance(value, ListNode) else (value,):
            if not isinstance(source, MapNode):
                self.error(source, f"only a mapping can be merged into {label}, not {describe(source)}")
                continue
            for name, entry in self._entries(source, label).items():
                merged.setdefault(name, entry)  # the first merged mapping wins

    def sequence(self, node: Node, label: str) -> tuple[Node, ...]:
        """Return the items of a list; a missing value is an empty list."""
        if isinstance(node, ListNode):
            return node.items
        if not is_null(node):
            self.error(node, f"{label} must be a list, not {describe(node)}")
        return ()

    def words(self, node: Node, label: str) -> tuple[Scalar, ...]:
        """Return a list of texts, with nested lists flattened, as OCS treats `arguments`."""
        found: list[Scalar] = []
        rest = list(reversed(self.sequence(node, label)))
        while rest and len(found) <= MAX_WORDS:
            item = rest.pop()
            if isinstance(item, ListNode):
                rest.extend(reversed(item.items))
            elif isinstance(item, Scalar) and self.text(item, f"an entry of {label}") is not None:
                found.append(item)
            elif isinstance(item, MapNode):
                self.error(item, f"an entry of {label} must be a text, not {describe(item)}")
        if len(found) > MAX_WORDS:
            self.error(node, f"{label} has more than {MAX_WORDS} entries")
        return tuple(found)

    def check_keys(self, entries: Mapping[str, Entry], known: Iterable[str], label: str) -> None:
        """Warn about every unknown key, with a suggestion."""
        names = sorted(known)
        for name, entry in entries.items():
            if name not in names and not name.startswith(EXTENSION):
                hint = hint_at(name, names)
                self.warn(entry.key, f"unknown key {shown(name)} in {label} is ignored ({hint})")

    # --- scalars

    def text(self, node: Node, label: str) -> str | None:
        """Return a text; a number or a boolean of YAML counts as written."""
        if not isinstance(node, Scalar):
            self.error(node, f"{label} must be a text, not {describe(node)}")
        elif is_null(node):
            self.error(node, f"{label} has no value; write '' for an empty text")
        elif "\0" in node.text:
            self.error(node, f"{label} has a NUL character, which no program can receive")
        else:
            return node.text
        return None

    def number(self, node: Node, label: str, low: float, high: float) -> float | None:
        """Return a number from `low` to `high`."""
        value = parse_number(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        self.error(node, f"{label} must be a number from {low:g} to {high:g}, not {describe(node)}")
        return None

    def whole(self, node: Node, label: str, low: int, high: int) -> int | None:
        """Return a whole number from `low` to `high`."""
        value = parse_whole(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        self.error(node, f"{label} must be a whole number from {low} to {high}, not {describe(node)}")
        return None

    def seconds(self, node: Node, label: str, low: float, high: float) -> float | None:
        """Return a duration in s, from `low` to `high`.

        parse_duration describes the format.
        """
        value = parse_duration(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        range_ = f"from {low:g} to {high:g} seconds, such as 10, 500ms or 1m30s"
        self.error(node, f"{label} must be a time {range_}, not {describe(node)}")
        return None

    def size(self, node: Node, label: str, low: int, high: int) -> int | None:
        """Return a size in bytes, from `low` to `high`; parse_size describes the format."""
        value = parse_size(node.text) if isinstance(node, Scalar) else None
        if value is not None and low <= value <= high:
            return value
        range_ = f"from {low} to {high} bytes, such as 512k or 10M"
        self.error(node, f"{label} must be a size {range_}, not {describe(node)}")
        return None

    def choice(self, node: Node, label: str, known: Sequence[str]) -> str | None:
        """Return one of the known words."""
        text = self.text(node, label)
        if text is None or text in known:
            return text
        close = suggest(text, known)
        listed = f"{', '.join(known[:-1])} or {known[-1]}"
        self.error(node, f"{label} must be {listed}, not {shown(text)}" + (f" ({close})" if close else ""))
        return None


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean …?` for a known word close to `word`, or an empty text."""
    by_fold = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word[:100].casefold(), list(by_fold), 1)
    return f"did you mean {by_fold[close[0]]!r}?" if close else ""


def hint_at(word: str, known: Iterable[str], most: int = 15) -> str:
    """Return a suggestion, or the list of known words if none is close to `word`."""
    names = list(known)
    listed = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    return suggest(word, names) or f"known: {listed or 'none'}"


def is_null(node: Node) -> bool:
    """Return whether the node is a missing value (`key:`) or null."""
    return isinstance(node, Scalar) and node.kind is NodeKind.NULL


def shown(text: str) -> str:
    """Return a text for a message: quoted, and at most 60 characters long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def describe(node: Node) -> str:
    """Describe a node for a message."""
    if isinstance(node, MapNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    return "nothing" if is_null(node) else shown(node.text)
