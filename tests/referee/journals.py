"""The lives of agents as they journaled them themselves."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.referee import proc
from tests.referee.proc import Name
from tests.referee.verdict import Invariant, Violation

_LINES_KEPT = 40  # of each journal, as evidence
_LEADERS_KEPT = 50  # of each instance: more than there are within a round


@dataclass(slots=True, eq=False)
class Life:
    """One process of an instance, from its birth on. Times are s since boot."""

    instance: str
    name: Name
    who: str  # `leader`, or which of its descendants
    run: str
    born: float
    last: float  # when it last wrote anything
    beats: int = 0
    lines: int = 0  # of output
    heard: list[int] = field(default_factory=list)  # signals
    ended: float | None = None  # it said that it ends
    left: bool = False  # of its own accord
    killed: float | None = None  # the referee killed it, and saw it gone
    gone: bool = False

    @property
    def leads(self) -> bool:
        return self.who == "leader"

    def alive(self) -> bool:
        """As the kernel has it now. Once dead it is dead."""
        if not self.gone and not proc.is_alive(self.name):
            self.gone = True
        return not self.gone

    def dead_before(self, moment: float) -> bool:
        """Whether it is certain that it was dead by then."""
        return self.killed is not None and self.killed < moment

    def __str__(self) -> str:
        return f"{self.instance} {self.who} {self.name} (run {self.run})"


class Journals:
    """Everything that the agents of a folder have written, read as it grows. A journal may show a violation
    by itself: a lock that somebody else held, a beat that is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[str, int] = {}
        self._tails: dict[str, deque[str]] = {}
        self.lives: dict[Name, Life] = {}
        self._current: dict[str, list[Life]] = {}  # by instance, those not yet known to be over
        self._leaders: dict[str, deque[Life]] = {}  # by instance, the latest
        self._runs: dict[tuple[str, str], Life] = {}  # leaders by instance and run
        self._pids: dict[int, list[Life]] = {}
        self._found: Violation | None = None
        self.births: deque[Life] = deque()  # as they were read, for whoever looks into them
        self.deaths: deque[Life] = deque()  # as they were found, likewise

    def read(self) -> None:
        """Take in all that was written since the last time. Raises a Violation that it shows."""
        for entry in sorted(os.listdir(self._folder)):
            if entry.endswith(".journal"):
                self._read(entry)
        if self._found is not None:
            found, self._found = self._found, None
            raise found

    def alive(self, instance: str) -> list[Life]:
        """Those of the instance that live, leader and descendants."""
        living = []
        for life in self._current.get(instance, []):
            if life.alive():
                living.append(life)
            else:
                self.deaths.append(life)
        self._current[instance] = living
        return list(living)

    def leader(self, instance: str) -> Life | None:
        return next((life for life in self.alive(instance) if life.leads), None)

    def leader_of(self, life: Life) -> Life | None:
        """The leader of the run that a descendant belongs to."""
        return self._runs.get((life.instance, life.run))

    def by_pid(self, pid: int) -> list[Life]:
        """All that ever had this pid."""
        return self._pids.get(pid, [])

    def standing(self, instance: str, since: float, until: float) -> Iterator[Life]:
        """The leaders of an instance that certainly lived from one moment to the other."""
        for life in self._leaders.get(instance, ()):
            last = life.last if life.ended is None else life.ended
            if life.born < since and last > until:
                yield life

    def evidence(self, instance: str) -> tuple[str, ...]:
        """The last lines of an instance's journal, with the latest beats only."""
        lines = list(self._tails.get(instance, ()))
        lines += [
            f"beat {life.name} {life.last:.6f} n={life.beats}" for life in self._current.get(instance, [])
        ]
        return tuple(f"journal {instance}: {line}" for line in lines)

    def _read(self, entry: str) -> None:
        with open(self._folder / entry, "rb") as file:
            file.seek(self._offsets.get(entry, 0))
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offsets[entry] = self._offsets.get(entry, 0) + whole
        instance = entry.removesuffix(".journal")
        tail = self._tails.setdefault(instance, deque(maxlen=_LINES_KEPT))
        for line in data[:whole].decode().splitlines():
            if not line.startswith("beat"):
                tail.append(line)
            self._take(instance, line)

    def _take(self, instance: str, line: str) -> None:
        word, who, time, *rest = line.split()
        values = dict(pair.split("=", 1) for pair in rest)
        name, moment = Name.parse(who), float(time)
        if word == "born":
            life = Life(instance, name, values["who"], values["run"], moment, moment)
            self.lives[name] = life
            self._current.setdefault(instance, []).append(life)
            self._pids.setdefault(name.pid, []).append(life)
            if life.leads:
                self._leaders.setdefault(instance, deque(maxlen=_LEADERS_KEPT)).append(life)
                self._runs[instance, life.run] = life
            self.births.append(life)
            return
        life = self.lives[name]
        life.last = moment
        match word:
            case "beat":
                if int(values["n"]) != life.beats + 1:
                    text = f"a beat of {life} is missing: {life.beats} was followed by {values['n']}"
                    self._find(Invariant.I9, text, instance)
                life.beats = int(values["n"])
                life.lines = int(values["lines"])
            case "heard":
                life.heard.append(int(values["signal"]))
            case "ended":
                life.ended = moment
            case "leaving":
                life.ended, life.left = moment, True
            case "barred":
                self._barred(life, values["lock"], values["holder"])

    def _barred(self, life: Life, lock: str, holder: str) -> None:
        invariant = Invariant.I1 if lock.endswith(".leader.lock") else Invariant.I8
        self._find(invariant, f"{life} found that {holder} still held {lock}", life.instance)

    def _find(self, invariant: Invariant, what: str, instance: str) -> None:
        if self._found is None:
            self._found = Violation(invariant, what, self.evidence(instance))


def signals(numbers: list[int]) -> str:
    return ", ".join(signal.Signals(number).name for number in numbers)
