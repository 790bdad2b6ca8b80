"""The engine: facts in, decisions out, through a driver and into the store. No thread, no wait of its own.

Everything here runs on the supervisor's thread, or in a test that plays that thread.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from hostmanager_server.core import plan
from hostmanager_server.core.actions import Launch, Remove, Stop
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import DriverEvent, Instant, RunKey, StartFailed, StopFailed
from hostmanager_server.core.facts import fold
from hostmanager_server.core.history import history_differs, history_of
from hostmanager_server.core.lifecycle import decide, next_deadline
from hostmanager_server.core.manager_status import ManagerStatus
from hostmanager_server.core.model import Instance
from hostmanager_server.drivers.contract import Driver
from hostmanager_server.state.store import Store

log = logging.getLogger(__name__)

# How long, in s, decisions are carried out before the loop looks at its descriptors again: starting 500 must
# not delay the restart of one that dies meanwhile by more. By time, as stops are so much cheaper than starts
# that the last of 500 is to be told before the first exits are seen to.
SLICE = 0.03
# Decisions in a row on one instance that its own actions call for, before the others have their turn.
AT_ONCE = 4


@dataclass(slots=True)
class _Pending:
    """What the next publication will make visible."""

    changed: dict[str, Instance] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)
    manager: ManagerStatus | None = None
    entries: list[LogEntry] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed or self.manager or self.entries)


class Reconciler:
    """Owns the instances. `driver` is set once, right after construction, as the two know each other."""

    driver: Driver

    def __init__(self, store: Store, now: Callable[[], Instant]) -> None:
        self._store = store
        self._now = now
        self._instances: dict[str, Instance] = {}
        self._dirty: dict[str, None] = {}  # to be decided on, in order
        self._deadlines: list[tuple[float, str]] = []
        self._armed: dict[str, float] = {}  # the deadline of each instance that is in force
        self._dependents: dict[str, dict[str, None]] = {}  # by what they depend on; sets in order
        self._pending = _Pending()
        self._targets_moved = False
        self._histories_moved: dict[str, None] = {}

    @property
    def instances(self) -> Mapping[str, Instance]:
        return self._instances

    # --- facts

    def post(self, event: DriverEvent) -> None:
        """Fold a driver's event."""
        instance = self._instances.get(event.instance_id)
        if instance is not None:
            self._set(fold(instance, event))

    def apply(self, changed: Mapping[str, Instance], entries: Iterable[LogEntry] = ()) -> None:
        """Put instances in as a request made them."""
        for instance in changed.values():
            self._set(instance)
        self.log(*entries)

    def drop(self, instance_ids: Iterable[str]) -> None:
        """Track these no longer. What runs of them goes on running, so that is to be somebody else's."""
        for instance_id in list(instance_ids):
            self._remove(instance_id)

    def log(self, *entries: LogEntry) -> None:
        """Put something into the event log with the next publication."""
        self._pending.entries.extend(entries)

    def set_manager(self, manager: ManagerStatus) -> None:
        self._pending.manager = manager

    # --- decisions

    def targets_moved(self) -> bool:
        """Whether a decision has changed a target since this was last asked: a request to an instance that is
        only observed has been carried out."""
        moved, self._targets_moved = self._targets_moved, False
        return moved

    def histories_moved(self) -> list[str]:
        """The instances that something to be remembered happened to since this was last asked."""
        moved, self._histories_moved = self._histories_moved, {}
        return list(moved)

    def step(self) -> bool:
        """Decide on what changed or came due, for SLICE at most, carry it out, publish. True: there is more
        to do at once."""
        self._collect_due()
        end = self._now().mono + SLICE
        while self._dirty and self._now().mono < end:
            instance_id = next(iter(self._dirty))
            # What a driver says from inside a call is decided on at once, and published in one piece with it.
            for _ in range(AT_ONCE):
                self._dirty.pop(instance_id, None)
                self._decide(instance_id)
                if instance_id not in self._dirty:
                    break
        self.publish()
        return bool(self._dirty)

    def settle(self, instance_ids: Iterable[str]) -> None:
        """Decide on these before anything is published."""
        for instance_id in list(instance_ids):
            self._dirty.pop(instance_id, None)
            self._decide(instance_id)

    def next_deadline(self) -> float | None:
        """The moment (mono, s) at which `step` has something to do again; None: not by itself."""
        while self._deadlines and self._armed.get(self._deadlines[0][1]) != self._deadlines[0][0]:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def publish(self) -> int:
        """Make everything visible that is not yet; the revision that shows it."""
        pending = self._pending
        if not pending:
            return self._store.revision
        self._pending = _Pending()
        return self._store.publish(
            pending.changed.values(), pending.removed, pending.manager, pending.entries
        )

    def _collect_due(self) -> None:
        if not self._deadlines:
            return
        moment = self._now().mono
        while (deadline := self.next_deadline()) is not None and deadline <= moment:
            _, instance_id = heapq.heappop(self._deadlines)
            del self._armed[instance_id]
            self._dirty[instance_id] = None

    def _decide(self, instance_id: str) -> None:
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        instance = self._with_dependency_facts(instance)
        decision = decide(instance, self._now())
        if decision.instance.wanted.target is not instance.wanted.target:
            self._targets_moved = True
        self._set(decision.instance, dirty=False)
        self._arm(decision.instance)
        if decision.instance.spec is not instance.spec:  # a successor, whose neighbours are others
            self._dirty[instance_id] = None
        for action in decision.actions:
            match action:
                case Launch():
                    self._launch(action)
                case Stop(run, signum, whole_tree):
                    self._stop(run, signum, whole_tree)
                case LogEntry():
                    self._pending.entries.append(action)
                case Remove():
                    self._remove(action.instance_id)
                case _:
                    assert_never(action)

    def _launch(self, action: Launch) -> None:
        try:
            self.driver.launch(action.run, action.spec)
        except Exception as error:  # a bug of the driver: this start failed, the others are not to suffer
            log.exception("the driver raised on launching %s", action.run)
            why = f"internal error of the driver: {error!r}; the daemon's log has the traceback"
            self.post(StartFailed(action.run, why, self._now()))

    def _stop(self, run: RunKey, signum: int, whole_tree: bool) -> None:
        try:
            self.driver.stop(run, signum, whole_tree)
        except Exception as error:  # a bug of the driver: this stop is asked for again, the others go on
            log.exception("the driver raised on stopping %s", run)
            why = f"internal error of the driver: {error!r}; the daemon's log has the traceback"
            self.post(StopFailed(run, why, self._now()))

    def _arm(self, instance: Instance) -> None:
        deadline = next_deadline(instance)
        if deadline is None:
            self._armed.pop(instance.instance_id, None)
        elif self._armed.get(instance.instance_id) != deadline.mono:
            self._armed[instance.instance_id] = deadline.mono
            heapq.heappush(self._deadlines, (deadline.mono, instance.instance_id))

    # --- the table of instances

    def _set(self, instance: Instance, *, dirty: bool = True) -> None:
        instance_id = instance.instance_id
        known = self._instances.get(instance_id)
        if instance is known:
            return
        self._instances[instance_id] = instance
        before = known.spec.depends_on if known is not None else ()
        if before != instance.spec.depends_on:
            self._move_dependent(instance_id, before, instance.spec.depends_on)
        if dirty:
            self._dirty[instance_id] = None
        if history_of(instance) is not None if known is None else history_differs(known, instance):
            self._histories_moved[instance_id] = None
        if instance != known:
            self._pending.changed[instance_id] = instance
            self._pending.removed.pop(instance_id, None)
            self._touch_neighbours(known, instance)
        if known is None or known.spec is not instance.spec:
            self.driver.follow(instance.spec)

    def _remove(self, instance_id: str) -> None:
        instance = self._instances.pop(instance_id)
        self._dirty.pop(instance_id, None)
        self._armed.pop(instance_id, None)
        self._pending.changed.pop(instance_id, None)
        self._pending.removed[instance_id] = None
        self._histories_moved[instance_id] = None
        self._move_dependent(instance_id, instance.spec.depends_on, ())
        self._touch_neighbours(instance, None)
        self.driver.forget(instance.spec)

    # --- who waits for whom

    def _move_dependent(self, instance_id: str, before: Iterable[str], after: Iterable[str]) -> None:
        """An instance depends on others than before."""
        for dependency in dict.fromkeys(before):
            dependents = self._dependents[dependency]
            del dependents[instance_id]
            if not dependents:
                del self._dependents[dependency]
            if dependency in self._instances:  # it may have been held by this one
                self._dirty[dependency] = None
        for dependency in after:
            self._dependents.setdefault(dependency, {})[instance_id] = None

    def _touch_neighbours(self, before: Instance | None, after: Instance | None) -> None:
        """Whoever's facts may differ now is to be decided on."""
        instance = after or before
        assert instance is not None
        if not self._dependents:
            return
        if before is not None and after is not None and _as_seen(before) == _as_seen(after):
            return
        neighbours = (*self._dependents.get(instance.instance_id, ()), *instance.spec.depends_on)
        self._dirty.update((n, None) for n in neighbours if n in self._instances)

    def _with_dependency_facts(self, instance: Instance) -> Instance:
        dependents = tuple(self._dependents.get(instance.instance_id, ()))
        if not dependents and not instance.spec.depends_on and not instance.observed.waiting_for:
            return _with_neighbours(instance, (), ()) if instance.observed.held_by else instance
        waiting_for = plan.waiting_for(self._instances, instance)
        held_by = plan.held_by(self._instances, instance, dependents)
        if (waiting_for, held_by) == (instance.observed.waiting_for, instance.observed.held_by):
            return instance
        return _with_neighbours(instance, waiting_for, held_by)


def _with_neighbours(instance: Instance, waiting_for: tuple[str, ...], held_by: tuple[str, ...]) -> Instance:
    return replace(instance, observed=replace(instance.observed, waiting_for=waiting_for, held_by=held_by))


def _as_seen(instance: Instance) -> tuple[object, ...]:
    """What neighbours in the dependency graph look at."""
    return instance.next_action, instance.should_run, instance.should_end, instance.observed.run is None
