"""The reconcile loop: driver events in, decisions of the core out.

All code here runs on the supervisor thread, or in a test that plays this thread. The reconciler never waits.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import assert_never

from hostmanager.values import dataclass, field

from hostmanager_server.core.actions import Action, Decision, Launch, Remove, Stop
from hostmanager_server.core.counters import next_deadline
from hostmanager_server.core.dependencies import Dependents, affects_neighbours, with_dependency_facts
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import (
    DriverEvent,
    Exited,
    Gone,
    Instant,
    RunKey,
    StartFailed,
    StopFailed,
)
from hostmanager_server.core.facts import fold
from hostmanager_server.core.history import history_differs, history_of
from hostmanager_server.core.lifecycle import decide
from hostmanager_server.core.manager_status import ManagerStatus
from hostmanager_server.core.model import Instance
from hostmanager_server.core.schedules import next_wake
from hostmanager_server.drivers.contract import Driver
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.calendar import with_next_run

log = logging.getLogger(__name__)

# The time limit of one step, in s, after which the loop polls its descriptors again: 500 starts must not
# delay the restart of a crashed instance by more. The limit is a time and no count, because stops cost much
# less than starts: a step should send the last of 500 stops before the loop handles the first exits.
SLICE = 0.03
# Decisions in a row about one instance, as its own actions require, before the next instance's turn.
AT_ONCE = 4


@dataclass(slots=True)
class _Pending:
    """The content of the next publication."""

    changed: dict[str, Instance] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)
    manager: ManagerStatus | None = None
    entries: list[LogEntry] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed or self.manager or self.entries)


class Reconciler:
    """The owner of the instances.

    The composition sets `driver` once, right after construction, because the driver needs `post`.
    `let_readers_run` gives readers the time to send ends before launches take the processors.
    """

    driver: Driver

    def __init__(self, store: Store, now: Callable[[], Instant]) -> None:
        self._store = store
        self._now = now
        self.let_readers_run: Callable[[], None] = lambda: None
        self._instances: dict[str, Instance] = {}
        self._dirty: dict[str, None] = {}  # ids of instances to decide about, in order
        self._ended: dict[str, None] = {}  # ids of instances with a run that ended, until the publication
        self._launches: dict[str, Launch] = {}  # by id: launches that wait for a publication, or their turn
        self._deadlines: list[tuple[float, str]] = []  # a heap; outdated entries stay until they come due
        self._armed: dict[str, float] = {}  # the valid deadline of each instance
        self._dependents = Dependents()
        self._pending = _Pending()
        self._posted: deque[DriverEvent] = deque()
        self._deferring = False  # a call of the reconciler is in progress: posted events wait
        self._targets_changed = False
        self._changed_histories: dict[str, None] = {}

    @property
    def instances(self) -> Mapping[str, Instance]:
        """All tracked instances, by id."""
        return self._instances

    # --- facts

    def post(self, event: DriverEvent) -> None:
        """Fold a driver event into its instance.

        An event that a driver posts from inside a call waits until the reconciler has finished its call.
        """
        self._posted.append(event)
        if not self._deferring:
            self._fold_posted()

    def _fold_posted(self) -> None:
        while self._posted:
            event = self._posted.popleft()
            instance = self._instances.get(event.instance_id)
            if instance is not None:
                self._set(fold(instance, event))
                if isinstance(event, Exited | Gone):
                    self._ended[event.instance_id] = None

    @contextlib.contextmanager
    def _deferred_events(self) -> Iterator[None]:
        """Fold events posted during the block, which calls the driver, afterwards."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            self._fold_posted()

    def apply(self, changed: Mapping[str, Instance], entries: Iterable[LogEntry] = ()) -> None:
        """Track instances as a request changed them, and log the entries."""
        with self._deferred_events():
            for instance in changed.values():
                self._set(instance)
        self.log(*entries)

    def drop(self, instance_ids: Iterable[str]) -> None:
        """Stop tracking these instances; their processes and containers run on."""
        with self._deferred_events():
            for instance_id in list(instance_ids):
                self._remove(instance_id)

    def log(self, *entries: LogEntry) -> None:
        """Add entries to the event log with the next publication."""
        self._pending.entries.extend(entries)

    def set_manager(self, manager: ManagerStatus) -> None:
        """Publish this status of the manager with the next publication."""
        self._pending.manager = manager

    # --- decisions

    def take_targets_changed(self) -> bool:
        """Return whether a decision changed a target or a hold since the last call.

        A decision does so after a passive instance has carried out a request, and at the end of a hold.
        """
        changed, self._targets_changed = self._targets_changed, False
        return changed

    def take_changed_histories(self) -> list[str]:
        """Return the ids of instances with a changed history since the last call."""
        changed, self._changed_histories = self._changed_histories, {}
        return list(changed)

    def step(self) -> bool:
        """Decide about changed and due instances, carry out the actions, and publish.

        All ends since the last step are published together, and before the launch of any replacement. Other
        work takes at most SLICE. Returns True if more instances wait for a decision or their launch.
        """
        self._collect_due()
        if self._ended:
            for instance_id in list(self._ended):
                self._decide_at_once(instance_id)
            self._publish_ends()
            if self._launches:
                self.let_readers_run()
        for instance_id in [waiting for waiting in self._launches if waiting in self._dirty]:
            self._decide_at_once(instance_id)  # perhaps a stop, which must not wait for the launch
        end = self._now().mono + SLICE
        while self._launches and self._now().mono < end:
            self._launch(self._launches.pop(next(iter(self._launches))))
        while self._dirty and self._now().mono < end:
            self._decide_at_once(next(iter(self._dirty)))
        self._publish_ends()
        return bool(self._dirty or self._launches)

    def _publish_ends(self) -> None:
        self.publish()
        self._ended.clear()

    def _decide_at_once(self, instance_id: str) -> None:
        """Decide about an instance, also about events from inside the driver calls of its actions.

        These lead to the same publication.
        """
        for _ in range(AT_ONCE):
            self._dirty.pop(instance_id, None)
            self._decide(instance_id)
            if instance_id not in self._dirty:
                break

    def settle(self, instance_ids: Iterable[str]) -> None:
        """Decide about these instances before the next publication."""
        for instance_id in list(instance_ids):
            self._dirty.pop(instance_id, None)
            self._decide(instance_id)

    def next_deadline(self) -> float | None:
        """Return the time (mono, s) of the next decision without an event, or None."""
        while self._deadlines and self._armed.get(self._deadlines[0][1]) != self._deadlines[0][0]:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def publish(self) -> int:
        """Publish all pending changes, and return the revision that shows them."""
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
        now = self._now().mono
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, instance_id = heapq.heappop(self._deadlines)
            del self._armed[instance_id]
            self._dirty[instance_id] = None

    def _decide(self, instance_id: str) -> None:
        known = self._instances.get(instance_id)
        if known is None:
            return
        now = self._now()
        instance = with_dependency_facts(known, self._instances, self._dependents.of(instance_id))
        decision = decide(instance, now)
        if decision.instance.spec.schedule is not None or decision.instance.observed.next_run is not None:
            decision = self._with_next_run(decision, now)
        before, after = instance.wanted, decision.instance.wanted
        if after.target is not before.target or after.hold is not before.hold:
            self._targets_changed = True
        with self._deferred_events():
            self._set(decision.instance, dirty=False)
            self._arm(decision.instance)
            if decision.instance.spec is not instance.spec:  # a successor, with other dependencies
                self._dirty[instance_id] = None
            for action in decision.actions:
                self._carry_out(action)

    def _with_next_run(self, decision: Decision, now: Instant) -> Decision:
        """Return the decision with the time of the next scheduled run, and the words that it changes."""
        known = decision.instance
        instance = with_next_run(known, now)
        if instance is known:
            return decision
        after = decide(instance, now)
        return Decision(after.instance, (*decision.actions, *after.actions))

    def _carry_out(self, action: Action) -> None:
        match action:
            case Launch():
                if action.run.instance_id in self._ended:
                    self._launches[action.run.instance_id] = action
                else:
                    self._launch(action)
            case Stop(run, signum, whole_tree):
                self._stop(run, signum, whole_tree=whole_tree)
            case LogEntry():
                self._pending.entries.append(action)
            case Remove():
                self._remove(action.instance_id)
            case _:
                assert_never(action)

    def _launch(self, action: Launch) -> None:
        try:
            self.driver.launch(action.run, action.spec)
        except Exception as error:  # a bug of the driver: only this start fails
            log.exception("the driver raised on launching %s", action.run)
            why = f"internal error of the driver: {error!r}; the daemon's log has the traceback"
            self.post(StartFailed(action.run, why, self._now()))

    def _stop(self, run: RunKey, signum: int, *, whole_tree: bool) -> None:
        launch = self._launches.get(run.instance_id)
        if launch is not None and launch.run == run:
            del self._launches[run.instance_id]
            self.post(StartFailed(run, "a stop was requested before the start", self._now()))
            return
        try:
            self.driver.stop(run, signum, whole_tree=whole_tree)
        except Exception as error:  # a bug of the driver: only this stop fails, and the core repeats the stop
            log.exception("the driver raised on stopping %s", run)
            why = f"internal error of the driver: {error!r}; the daemon's log has the traceback"
            self.post(StopFailed(run, why, self._now()))

    def signal(self, run: RunKey, signum: int, *, whole_tree: bool, done: Callable[[str], None]) -> None:
        """Send an operator's signal; `done` receives why that failed, or the empty string."""
        try:
            with self._deferred_events():
                self.driver.signal(run, signum, whole_tree=whole_tree, done=done)
        except Exception as error:  # a bug of the driver
            log.exception("the driver raised on signalling %s", run)
            done(f"internal error of the driver: {error!r}; the daemon's log has the traceback")

    def _arm(self, instance: Instance) -> None:
        deadline = next_deadline(instance)
        mono = deadline.mono if deadline is not None else None
        if (wake := next_wake(instance, self._now())) is not None:
            mono = wake if mono is None else min(mono, wake)
        if mono is None:
            self._armed.pop(instance.instance_id, None)
        elif self._armed.get(instance.instance_id) != mono:
            self._armed[instance.instance_id] = mono
            heapq.heappush(self._deadlines, (mono, instance.instance_id))

    # --- the table of instances

    def _set(self, instance: Instance, *, dirty: bool = True) -> None:
        instance_id = instance.instance_id
        known = self._instances.get(instance_id)
        if instance is known:
            return
        self._instances[instance_id] = instance
        before = known.spec.dependencies if known is not None else ()
        if before != instance.spec.dependencies:
            self._move_dependent(instance_id, before, instance.spec.dependencies)
        if dirty:
            self._dirty[instance_id] = None
        if history_of(instance) is not None if known is None else history_differs(known, instance):
            self._changed_histories[instance_id] = None
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
        self._launches.pop(instance_id, None)
        self._ended.pop(instance_id, None)
        self._pending.changed.pop(instance_id, None)
        self._pending.removed[instance_id] = None
        self._changed_histories[instance_id] = None
        self._move_dependent(instance_id, instance.spec.dependencies, ())
        self._touch_neighbours(instance, None)
        self.driver.forget(instance.spec)

    # --- dependencies

    def _move_dependent(self, instance_id: str, before: Iterable[str], after: Iterable[str]) -> None:
        """Replace the dependencies of an instance.

        A former dependency may be free to stop, and needs a decision.
        """
        self._dependents.move(instance_id, before, after)
        for dependency in before:
            if dependency in self._instances:
                self._dirty[dependency] = None

    def _touch_neighbours(self, before: Instance | None, after: Instance | None) -> None:
        """Mark the dependencies and dependents of a changed instance for a decision."""
        instance = after or before
        assert instance is not None
        if not self._dependents or not affects_neighbours(before, after):
            return
        neighbours = (*self._dependents.of(instance.instance_id), *instance.spec.dependencies)
        self._dirty.update((neighbour, None) for neighbour in neighbours if neighbour in self._instances)
