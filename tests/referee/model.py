"""What was asked of the daemon, and so what may be wanted of each instance."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.referee import proc
from tests.referee.ground import Agent

UP, DOWN = "up", "down"
RELOAD = "reload"
# A kernel start time is rounded down to a tick, and a moment of the model taken before or after the call.
SLACK = 0.05  # s


@dataclass(slots=True, eq=False)
class Asked:
    """A request that may end processes of an instance: `sent` and `answered` in s since boot. One that
    `starts` some does so only when it is forgotten: they may run before it is on the disk."""

    what: str
    sent: float
    answered: float = float("inf")
    starts: bool = False


@dataclass(slots=True)
class _Known:
    """What is known of one instance."""

    possible: set[str] = field(default_factory=lambda: {UP})
    down_since: float | None = None  # down and nothing else since then
    downs: list[tuple[float, float]] = field(default_factory=list)  # such times that are over
    stops: list[Asked] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)


class Model:
    """For each instance the targets that it may have: one when the last request was answered, more when the
    answer to some was lost.

    Requests about one instance are made one after the other, those about several instances side by side.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._known = {agent.instance: _Known() for agent in agents}
        self._lost: list[Asked] = []
        self._lock = threading.Lock()

    @contextmanager
    def alone(self, instances: Iterable[str]) -> Iterator[None]:
        """Nobody else asks for anything about these meanwhile."""
        ordered = [self._known[instance].busy for instance in sorted(instances)]
        for busy in ordered:
            busy.acquire()
        try:
            yield
        finally:
            for busy in ordered:
                busy.release()

    def asking(self, what: str, targets: dict[str, str], stops: Iterable[str] = ()) -> list[Asked]:
        """Before a request: targets it sets, and others that it may bring down for another reason."""
        moment = proc.now()
        entries = []
        with self._lock:
            for instance, target in targets.items():
                known = self._known[instance]
                if target == UP and known.down_since is not None:
                    known.downs.append((known.down_since, moment))
                    known.down_since = None
                if target == UP and DOWN in known.possible:
                    entries.append(Asked(what, moment, starts=True))
                    known.stops.append(entries[-1])
                known.possible.add(target)
            for instance in {*stops, *(i for i, target in targets.items() if target == DOWN)}:
                entries.append(Asked(what, moment))
                self._known[instance].stops.append(entries[-1])
        return entries

    def answered(self, targets: dict[str, str], entries: list[Asked]) -> None:
        """The request succeeded: from now on this holds, whatever dies."""
        moment = proc.now()
        with self._lock:
            for instance, target in targets.items():
                self._settle(self._known[instance], target, moment)
            for asked in entries:
                asked.answered = float("-inf") if asked.starts else moment
            if any(asked.what == RELOAD for asked in entries):  # the file as it is has been read by now
                self._settle_lost(RELOAD)

    def lost(self, entries: list[Asked]) -> None:
        """No answer came: it was carried out or not, or will be when another daemon finds it on the disk."""
        with self._lock:
            self._lost += entries

    def settled(self) -> None:
        """A daemon has come to rest: nothing comes any more of what was lost before, but of a reload: the
        file may have been written after it was read, and is read again by the next daemon."""
        with self._lock:
            self._settle_lost(*{asked.what for asked in self._lost} - {RELOAD})

    def _settle_lost(self, *what: str) -> None:
        for asked in self._lost:
            if asked.what in what:
                asked.answered = proc.now()
        self._lost = [asked for asked in self._lost if asked.what not in what]

    def observed(self, instance: str, target: str) -> None:
        """A daemon that came after holds this to be the target, which is possible: it is to stay so."""
        with self._lock:
            self._settle(self._known[instance], target, proc.now())

    def possible(self, instance: str) -> set[str]:
        with self._lock:
            return set(self._known[instance].possible)

    def may_have_ended(self, instance: str, born: float, dead: float) -> bool:
        """Whether something was asked that may have ended a process that lived from `born` to `dead`."""
        with self._lock:
            return any(
                asked.sent <= dead and asked.answered >= born - SLACK for asked in self._known[instance].stops
            )

    def was_down(self, instance: str, moment: float) -> bool:
        """Whether at that moment it was down by what was acknowledged, and nothing else had been asked."""
        with self._lock:
            known = self._known[instance]
            times = list(known.downs)
            if known.down_since is not None:
                times.append((known.down_since, float("inf")))
            return any(since + SLACK < moment < until - SLACK for since, until in times)

    @staticmethod
    def _settle(known: _Known, target: str, moment: float) -> None:
        known.possible = {target}
        if target == DOWN and known.down_since is None:
            known.down_since = moment
