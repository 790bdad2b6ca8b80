"""A model of all requests: the targets that each instance may have."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.referee import proc
from tests.referee.host import Agent

UP, DOWN = "up", "down"
RELOAD = "reload"
# Kernel start times are rounded down to a tick, and times of the model are taken before or after the call.
SLACK = 0.05  # s


@dataclass(slots=True, eq=False)
class ModelRequest:
    """A request that may end processes of an instance; `sent` and `answered` in s since boot.

    A request with `starts` ends processes only if the daemon forgets the request: the processes may run
    before the request is on disk.
    """

    name: str
    sent: float
    answered: float = float("inf")
    starts: bool = False


@dataclass(slots=True)
class _Known:
    """Possible targets and requests of one instance."""

    possible: set[str] = field(default_factory=lambda: {UP})
    down_since: float | None = None  # acknowledged as down since then
    downs: list[tuple[float, float]] = field(default_factory=list)  # earlier periods of that kind
    stops: list[ModelRequest] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)


class Targets:
    """The possible targets of each instance: one after an answered request, more after lost answers.

    Requests about the same instance run one after the other; requests about different instances run in
    parallel.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self._known = {agent.instance: _Known() for agent in agents}
        self._lost: list[ModelRequest] = []
        self._lock = threading.Lock()

    @contextmanager
    def exclusive(self, instances: Iterable[str]) -> Iterator[None]:
        """Keep other clients from requests about these instances."""
        ordered = [self._known[instance].busy for instance in sorted(instances)]
        for busy in ordered:
            busy.acquire()
        try:
            yield
        finally:
            for busy in ordered:
                busy.release()

    def begin(self, name: str, targets: dict[str, str], stops: Iterable[str] = ()) -> list[ModelRequest]:
        """Record a request before sending: the targets it sets, and instances that it may stop otherwise."""
        moment = proc.now()
        entries = []
        with self._lock:
            for instance, target in targets.items():
                known = self._known[instance]
                if target == UP and known.down_since is not None:
                    known.downs.append((known.down_since, moment))
                    known.down_since = None
                if target == UP and DOWN in known.possible:
                    entries.append(ModelRequest(name, moment, starts=True))
                    known.stops.append(entries[-1])
                known.possible.add(target)
            for instance in {*stops, *(i for i, target in targets.items() if target == DOWN)}:
                entries.append(ModelRequest(name, moment))
                self._known[instance].stops.append(entries[-1])
        return entries

    def acknowledge(self, targets: dict[str, str], entries: list[ModelRequest]) -> None:
        """Record a success: from now on the targets hold, even if daemons die."""
        moment = proc.now()
        with self._lock:
            for instance, target in targets.items():
                self._set_target(self._known[instance], target, moment)
            for request in entries:
                request.answered = float("-inf") if request.starts else moment
            if any(request.name == RELOAD for request in entries):  # the daemon has read the present file
                self._close_lost(RELOAD)

    def lose(self, entries: list[ModelRequest]) -> None:
        """Record a lost answer: a daemon may have acted, or the next daemon may find the change on disk."""
        with self._lock:
            self._lost += entries

    def settle(self) -> None:
        """Close the lost requests, once a daemon is at rest.

        Reloads stay open: the file may be newer than the daemon's last reading, and the next daemon reads the
        file again.
        """
        with self._lock:
            self._close_lost(*{request.name for request in self._lost} - {RELOAD})

    def _close_lost(self, *names: str) -> None:
        for request in self._lost:
            if request.name in names:
                request.answered = proc.now()
        self._lost = [request for request in self._lost if request.name not in names]

    def observe(self, instance: str, target: str) -> None:
        """Record the target that a later daemon shows; the target must stay."""
        with self._lock:
            self._set_target(self._known[instance], target, proc.now())

    def possible(self, instance: str) -> set[str]:
        """Return the possible targets of an instance."""
        with self._lock:
            return set(self._known[instance].possible)

    def may_have_ended(self, instance: str, started: float, dead: float) -> bool:
        """Return whether a request may have ended a process that lived from `started` to `dead`."""
        with self._lock:
            return any(
                request.sent <= dead and request.answered >= started - SLACK
                for request in self._known[instance].stops
            )

    def was_down(self, instance: str, moment: float) -> bool:
        """Return whether the instance was acknowledged as down at `moment`, with no other request open."""
        with self._lock:
            known = self._known[instance]
            times = list(known.downs)
            if known.down_since is not None:
                times.append((known.down_since, float("inf")))
            return any(since + SLACK < moment < until - SLACK for since, until in times)

    @staticmethod
    def _set_target(known: _Known, target: str, moment: float) -> None:
        known.possible = {target}
        if target == DOWN and known.down_since is None:
            known.down_since = moment
