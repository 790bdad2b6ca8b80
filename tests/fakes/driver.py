"""A driver in memory that honours the contract, on a clock that tests advance."""

from __future__ import annotations

import functools
import heapq
import itertools
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hostmanager_server.core.events import (
    Adopted,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    Ready,
    RunKey,
    Started,
    StartFailed,
)
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec
from hostmanager_server.drivers.contract import Done, Poller, PostEvent, Timer


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The behaviour of an agent, which by default runs until a signal ends it.

    `cannot_start`: why a launch fails. `exits_after`: s until the agent exits with `status`. `ready_after`:
    s until a readiness probe succeeds; None: never. `ignores`: signals that end neither the agent nor its
    descendants. `descendants`: whether child processes outlive the agent, until a signal reaches the whole
    tree.
    """

    cannot_start: str = ""
    exits_after: float | None = None
    status: ExitStatus = field(default_factory=lambda: ExitStatus(code=0))
    ready_after: float | None = 0.0
    ignores: frozenset[int] = frozenset()
    descendants: bool = False

    def ends_upon(self, signum: int) -> bool:
        return signum == signal.SIGKILL or signum not in self.ignores


class _Call:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakePoller:
    """A Poller with a clock that stands still until `advance`."""

    def __init__(self, start: Instant | None = None) -> None:
        self._now = start or Instant(1_000.0, 1_700_000_000.0)
        self._calls: list[tuple[float, int, _Call]] = []
        self._order = itertools.count()
        self.watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self.watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        self.watched.pop(fd, None)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        call = _Call(callback)
        heapq.heappush(self._calls, (self._now.mono + max(0.0, seconds), next(self._order), call))
        return call

    def now(self) -> Instant:
        return self._now

    @property
    def next_call(self) -> float | None:
        """The s until the next call is due; None without a pending call."""
        while self._calls and self._calls[0][2].callback is None:
            heapq.heappop(self._calls)
        return self._calls[0][0] - self._now.mono if self._calls else None

    def advance(self, seconds: float) -> None:
        """Advance the clock, and make the due calls in order, each at its time."""
        until = self._now.plus(seconds)
        while (wait := self.next_call) is not None and self._now.mono + wait <= until.mono:
            call = heapq.heappop(self._calls)[2]
            self._now = self._now.plus(max(0.0, wait))
            callback, call.callback = call.callback, None
            if callback is not None:
                callback()
        self._now = until


@dataclass(eq=False, slots=True)
class FakeRun:
    """A run on a FakeDriverHost, with the living parts of its tree."""

    key: RunKey
    pid: int
    process: ProcessSpec
    started: Instant
    behaviour: Behaviour
    agent_class: str
    main_alive: bool = True
    descendants: bool = False
    ended: ExitStatus | None = None  # the exit status of the main process
    # Called with the status when the main process ends, with None when the descendants end.
    changed: Callable[[ExitStatus | None], None] | None = None

    @property
    def alive(self) -> bool:
        return self.main_alive or self.descendants


class FakeDriverHost:
    """A host of fake agents, which outlives drivers as processes outlive the daemon."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._pids = itertools.count(1_000)
        self.behaviours: dict[str, Behaviour] = {}
        self.runs: list[FakeRun] = []  # runs with a living process
        self.ended_unfollowed: list[FakeRun] = []  # runs that ended while no driver followed them

    def behave(self, instance_id: str, behaviour: Behaviour) -> None:
        """Set the behaviour of an instance from its next run on."""
        self.behaviours[instance_id] = behaviour

    def run_of(self, instance_id: str) -> FakeRun | None:
        """Return the living run of an instance; None without one."""
        return next((run for run in self.runs if run.key.instance_id == instance_id), None)

    def start(self, key: RunKey, spec: InstanceSpec, process: ProcessSpec, behaviour: Behaviour) -> FakeRun:
        """Start an agent and return its run."""
        now = self._poller.now()
        run = FakeRun(key, next(self._pids), process, now, behaviour, spec.agent_class)
        run.descendants = behaviour.descendants
        self.runs.append(run)
        if behaviour.exits_after is not None:
            self._poller.call_later(
                behaviour.exits_after, functools.partial(self.end_main_process, run, behaviour.status)
            )
        return run

    def crash(self, instance_id: str, status: ExitStatus) -> None:
        """End the main process of an instance, if there is one, as from outside."""
        run = self.run_of(instance_id)
        if run is not None:
            self.end_main_process(run, status)

    def signal(self, run: FakeRun, signum: int, *, whole_tree: bool) -> None:
        """Signal a run; the effect shows a moment later, not within the call."""
        if run.behaviour.ends_upon(signum):
            end = functools.partial(self.end_main_process, run, ExitStatus(signal=signum))
            self._poller.call_later(0.0, end)
            if whole_tree:
                self._poller.call_later(0.0, functools.partial(self.end_descendants, run))

    def end_main_process(self, run: FakeRun, status: ExitStatus) -> None:
        """End the main process, if it is alive."""
        if run.main_alive:
            run.main_alive = False
            run.ended = status
            self._notify(run, status)

    def end_descendants(self, run: FakeRun) -> None:
        """End the descendants, if any is alive."""
        if run.descendants:
            run.descendants = False
            self._notify(run, None)

    def _notify(self, run: FakeRun, status: ExitStatus | None) -> None:
        if not run.alive:
            self.runs.remove(run)
        if run.changed is not None:
            run.changed(status)
        elif not run.alive:
            self.ended_unfollowed.append(run)


@dataclass(slots=True)
class _Followed:
    run: FakeRun
    timers: list[Timer] = field(default_factory=list)


class FakeDriver:
    """Runs agents on a FakeDriverHost; see `Driver` for the contract."""

    def __init__(self, poller: Poller, post: PostEvent, host: FakeDriverHost) -> None:
        self._poller = poller
        self._post = post
        self._host = host
        self._followed: dict[str, _Followed] = {}

    def follow(self, spec: InstanceSpec) -> None:
        """See `Driver.follow`."""

    def forget(self, spec: InstanceSpec) -> None:
        """See `Driver.forget`."""

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        """See `Driver.launch`."""
        behaviour = self._host.behaviours.get(run.instance_id, Behaviour())
        why = behaviour.cannot_start
        if spec.process is None:
            why = spec.problem or "it has no command; set 'command'"
        elif self._host.run_of(run.instance_id) is not None:
            why = "its last run is not gone yet; stop that run first"
        if why or spec.process is None:
            failed = StartFailed(run, f"cannot start '{run.instance_id}': {why}", self._poller.now())
            self._post(failed)
            return
        followed = self._follow(self._host.start(run, spec, spec.process, behaviour))
        self._post(Started(run, followed.run.pid, self._poller.now()))
        if spec.ready is None:
            self._post(Ready(run, self._poller.now()))
        elif behaviour.ready_after is not None:
            ready = functools.partial(self._ready, run)
            followed.timers.append(self._poller.call_later(behaviour.ready_after, ready))

    def stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        """See `Driver.stop`."""
        followed = self._followed.get(run.instance_id)
        if followed is not None and followed.run.key == run:
            self._host.signal(followed.run, signum, whole_tree=whole_tree)

    def signal(self, run: RunKey, signum: int, *, whole_tree: bool, done: Done) -> None:
        """See `Driver.signal`."""
        followed = self._followed.get(run.instance_id)
        if followed is None or followed.run.key != run:
            done("its main process has ended")
            return
        self._host.signal(followed.run, signum, whole_tree=whole_tree)
        done("")

    def adopt(self, specs: Mapping[str, InstanceSpec]) -> list[Adopted]:
        """See `Driver.adopt`."""
        ended_unfollowed, self._host.ended_unfollowed = self._host.ended_unfollowed, []
        for run in self._host.runs:
            self._follow(run)
        return [
            Adopted(
                run.key,
                run.pid,
                run.started,
                run.process,
                run.ended,
                gone=not run.alive,
                agent_class=run.agent_class,
            )
            for run in (*self._host.runs, *ended_unfollowed)
        ]

    def disown(self) -> None:
        """See `Driver.disown`."""
        for followed in self._followed.values():
            followed.run.changed = None
            for timer in followed.timers:
                timer.cancel()
        self._followed.clear()

    def close(self) -> None:
        """See `Driver.close`."""
        self.disown()

    def _follow(self, run: FakeRun) -> _Followed:
        followed = self._followed[run.key.instance_id] = _Followed(run)
        run.changed = functools.partial(self._changed, followed)
        return followed

    def _ready(self, run: RunKey) -> None:
        self._post(Ready(run, self._poller.now()))

    def _changed(self, followed: _Followed, status: ExitStatus | None) -> None:
        run = followed.run
        if status is not None:
            for timer in followed.timers:
                timer.cancel()
            self._post(Exited(run.key, status, self._poller.now()))
        if not run.alive:
            del self._followed[run.key.instance_id]
            self._post(Gone(run.key, self._poller.now()))
