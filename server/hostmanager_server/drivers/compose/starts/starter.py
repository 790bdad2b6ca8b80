"""The starts of compose services, side by side.

Compose makes missing containers, with those of the dependencies in one call. Then a start waits for its
dependencies, and then the engine starts its containers. So a start touches no service that it does not need,
and a wait is an entry here, not a program that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.core.events import RunKey
from hostmanager_server.drivers.compose.cli.creates import CreateQueue, Creation
from hostmanager_server.drivers.compose.cli.process import ComposeCalls
from hostmanager_server.drivers.compose.cli.stops import RefreshProject
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.followed_service import FollowedService
from hostmanager_server.drivers.compose.service_containers import Key
from hostmanager_server.drivers.compose.starts.compose_starts import ComposeStarts, MakeCommand
from hostmanager_server.drivers.compose.starts.start import (
    KnownFailures,
    RecentStarts,
    Start,
    StartPhase,
    needs_start,
    outlook,
    siblings_of,
)
from hostmanager_server.drivers.compose.starts.start_facts import (
    Actions,
    Facts,
    is_unusable,
    missing_services,
    must_fetch,
)
from hostmanager_server.drivers.compose.starts.table import StartTable
from hostmanager_server.drivers.contract import Poller

# s until the containers of a project are inspected, when no event shows that a container has started.
_CONFIRMED_WITHIN = 1.0
_DROPPED = "its start was stopped"


class Starter:
    """All starts in progress, by service. Belongs to the supervisor thread."""

    def __init__(
        self,
        poller: Poller,
        calls: ComposeCalls,
        creates: CreateQueue,
        actions: Actions,
        facts: Facts,
        refresh: RefreshProject,
        command: MakeCommand,
    ) -> None:
        self._poller = poller
        self._creates = creates
        self._compose = ComposeStarts(poller, calls, creates, command)
        self._actions = actions
        self._facts = facts
        self._refresh = refresh
        self._starts = StartTable()
        self._known_failures = KnownFailures()
        self._recent = RecentStarts()

    # --- for the driver

    def launch(self, service: FollowedService, run: RunKey) -> None:
        """Start the containers of a service that do not run; `finish_launch` reports the outcome."""
        start = self._starts.get(service.key)
        if start is None or start.cancelled is not None:
            start = Start(service.wanted)
            self._starts.add(start)
        start.launched, start.run = service, run
        self._advance(start)

    def cancel(self, service: FollowedService, then: Callable[[], None]) -> None:
        """End the start of a service, and call `then` when no call can make a container of it any more."""
        start = self._starts.get(service.key)
        if start is None or start.launched is not service:
            then()
            return
        waits = self._compose.interrupt(start)
        if waits:
            start.cancelled = then
        self._drop(start, _DROPPED)
        if not waits:
            then()

    def when_ended(self, key: Key, then: Callable[[], None]) -> None:
        """Call `then` when no start of a service is in progress."""
        start = self._starts.get(key)
        if start is None:
            then()
        else:
            start.afterwards.append(then)

    def forget(self, service: FollowedService) -> None:
        """Report nothing more to a service; a start goes on only if it makes or starts containers now."""
        start = self._starts.get(service.key)
        if start is not None and start.launched is service:
            start.launched = start.run = None
            if start.phase in (StartPhase.PREPARING, StartPhase.WAITING):
                self._drop_unneeded(start.key)

    def redefine(self) -> None:
        """Take the present definitions of all services; a start that waits begins again with its own."""
        for start in self._starts.all():
            wanted = self._facts.siblings(start.wanted).get(start.wanted.service, start.wanted)
            if wanted == start.wanted or not self._starts.is_current(start):
                continue
            start.wanted = wanted
            if start.phase is StartPhase.WAITING:
                self._release(start)
                start.phase, start.bring = StartPhase.PREPARING, True
                self._advance(start)

    def changed(self, key: Key) -> None:
        """Take note that facts about the containers of a service have changed."""
        start = self._starts.get(key)
        if start is not None and start.phase in (StartPhase.CONFIRMING, StartPhase.PREPARING):
            self._advance(start)
        self._advance_dependents(key)

    def all_changed(self) -> None:
        """Take note that all facts may have changed."""
        for start in self._starts.all():
            if self._starts.is_current(start):
                self._advance(start)

    def clear(self) -> None:
        """Drop all starts. Running calls go on, and their ends are ignored."""
        self._starts.clear()
        self._creates.clear()

    # --- steps

    def _advance(self, start: Start) -> None:
        """Take every step of a start that is possible now."""
        match start.phase:
            case StartPhase.PREPARING if not start.pending and start.fetch is None:
                if not self._facts.is_stopping(start.key):
                    self._prepare(start)
            case StartPhase.CREATING if start.creation is None and self._may_create(start):
                self._create(start)
            case StartPhase.WAITING:
                self._await_dependencies(start)
            case StartPhase.CONFIRMING if start.confirmed(self._containers(start)):
                self._finish(start, "")
            case _:
                pass

    def _advance_dependents(self, key: Key) -> None:
        for start in self._starts.dependents(key):
            if self._starts.is_current(start):
                self._advance(start)

    def _prepare(self, start: Start) -> None:
        """Remove unusable containers, request dependencies, and pull a missing image."""
        unusable = [c for c in self._containers(start) if is_unusable(start, c, self._facts)]
        if unusable:
            self._remove(start, unusable)
            return
        wanted = start.wanted
        start.makes_container = len(self._containers(start)) != wanted.replicas
        self._request_dependencies(start)
        if start.makes_container and not start.fetched and must_fetch(wanted, self._facts):
            self._fetch(start)
            return
        start.phase = StartPhase.CREATING if start.makes_container else StartPhase.WAITING
        self._advance(start)
        self._advance_dependents(start.key)

    def _request_dependencies(self, start: Start) -> None:
        if not start.bring:
            return
        start.bring = False
        for dependency, sibling in siblings_of(start.wanted, self._facts.siblings(start.wanted)):
            key = (sibling.project, sibling.service)
            containers = self._facts.containers_of(key)
            if not needs_start(dependency, containers, again=start.makes_container):
                continue
            start.requested[sibling.service] = None
            other = self._starts.get(key)
            if other is None:
                other = Start(sibling)
                self._starts.add(other)
                self._advance(other)

    def _fetch(self, start: Start) -> None:
        done = partial(self._finish_fetch, start)
        start.fetch = self._actions.fetch(start.wanted.image, start.wanted.platform, done)

    def _finish_fetch(self, start: Start, error: str, refused: bool) -> None:  # noqa: FBT001 -- called by EngineActions, by position
        start.fetch = None
        if self._starts.is_current(start):
            start.fetched = True
            if error:
                self._finish(start, error)
            else:
                self._advance(start)

    def _may_create(self, start: Start) -> bool:
        """Return whether a call of compose would make no container of a dependency that is not prepared."""
        for _, sibling in siblings_of(start.wanted, self._facts.siblings(start.wanted)):
            other = self._starts.get((sibling.project, sibling.service))
            if other is None:
                continue
            if other.phase is StartPhase.PREPARING:
                return False
            if other.phase is StartPhase.CREATING and (other.creation is None or other.creation.alone):
                return False
        return True

    def _create(self, start: Start) -> None:
        start.existing = {container.id for container in self._containers(start)}
        image_missing = self._facts.image_id(start.wanted.image) == UNKNOWN_IMAGE
        start.creation = Creation(
            start.wanted,
            missing=partial(missing_services, start, self._facts),
            done=partial(self._finish_creation, start),
            alone=start.wanted.slow_to_create or (image_missing and not start.fetched),
        )
        self._creates.request(start.creation)
        self._advance_dependents(start.key)

    def _finish_creation(self, start: Start, error: str) -> None:
        start.creation = None
        if start.cancelled is not None:
            start.cancelled()
        elif self._starts.is_current(start):
            if error:
                self._fail(start, error)
                return
            start.phase = StartPhase.WAITING
            self._advance(start)
            self._advance_dependents(start.key)

    def _await_dependencies(self, start: Start) -> None:
        dependencies = siblings_of(start.wanted, self._facts.siblings(start.wanted))
        found = outlook(
            start,
            [(each, self._facts.containers_of((s.project, s.service))) for each, s in dependencies],
            [s.service for _, s in dependencies if self._facts.is_stopping((s.project, s.service))],
        )
        if found.failure:
            self._finish(start, found.failure)
            return
        if start.launched is not None and start.run is not None:
            start.launched.delay_launch(start.run, found.waits_for)
        if not found.waits_for and self._starts.is_current(start):
            self._start_containers(start)

    def _start_containers(self, start: Start) -> None:
        start.phase = StartPhase.STARTING
        targets = [c for c in self._containers(start) if not c.running and c.status != "paused"]
        start.begin(targets)
        if start.wanted.started_by_compose and start.makes_container:
            self._compose.start(start, partial(self._finish_start_by_compose, start))
            return
        if not targets:
            self._finish(start, "")
            return
        start.pending = len(targets)
        repeated = self._recent.count(start.key, self._poller.now().mono) >= 1
        for container in targets:
            done = partial(self._finish_start, start, container.id)
            self._actions.start(container.id, done, repeated=repeated)

    def _finish_start_by_compose(self, start: Start, error: str) -> None:
        start.call = None
        if start.cancelled is not None:
            self._refresh(start.wanted.project, start.cancelled)
        elif self._starts.is_current(start):
            self._fail(start, error)  # without an error, this reads the outcome all the same

    def _finish_start(self, start: Start, container_id: str, error: str, refused: bool) -> None:  # noqa: FBT001 -- called by EngineActions, by position
        start.pending -= 1
        if error:
            start.failure = start.failure or error
            start.failed += 1
            start.before.pop(container_id, None)
            if refused:
                start.refused.add(container_id)
        if start.pending or not self._starts.is_current(start):
            return
        if start.failure:
            self._renew_or_fail(start)
            return
        self._known_failures.forget(start.key)
        start.phase = StartPhase.CONFIRMING
        self._poller.call_later(_CONFIRMED_WITHIN, partial(self._confirm, start))
        self._advance(start)

    def _confirm(self, start: Start) -> None:
        if start.phase is StartPhase.CONFIRMING and self._starts.is_current(start):
            self._fail(start, "")

    # --- containers that cannot start

    def _renew_or_fail(self, start: Start) -> None:
        """Make a new container, once, where an old one cannot start and a new one may."""
        image_id = self._facts.image_id(start.wanted.image)
        refused, new_failed = start.refused_containers(self._containers(start))
        helps = self._known_failures.renewal_helps(start.wanted, image_id, start.failure)
        if not refused or start.renewed or not helps:
            if new_failed:
                self._known_failures.learn(start.wanted, image_id, start.failure)
            if (
                len(start.refused) == start.failed and not start.before
            ):  # nothing has started: no look at the engine is needed
                self._finish(start, start.failure)
            else:
                self._fail(start, start.failure)
            return
        start.renewed = True
        if start.launched is not None and start.run is not None:
            why = f"cannot start container {refused[0].name!r}: {start.failure}; making a new container"
            start.launched.report_renewal(start.run, why)
        self._remove(start, refused)

    def _remove(self, start: Start, containers: Sequence[Container]) -> None:
        start.phase = StartPhase.PREPARING
        start.failure = ""
        start.pending = len(containers)
        for container in containers:
            start.removed.add(container.id)
            self._actions.remove(container.id, partial(self._finish_removal, start))

    def _finish_removal(self, start: Start, error: str, refused: bool) -> None:  # noqa: FBT001 -- called by EngineActions, by position
        start.pending -= 1
        start.failure = start.failure or error
        if start.pending or not self._starts.is_current(start):
            return
        if start.failure:
            self._fail(start, start.failure)
        else:
            self._advance(start)

    # --- ends

    def _fail(self, start: Start, error: str) -> None:
        """End a start after a look at the engine, which alone knows the outcome."""
        start.phase = StartPhase.STARTING  # no step follows
        self._refresh(start.wanted.project, partial(self._finish_if_current, start, error))

    def _finish_if_current(self, start: Start, error: str) -> None:
        if self._starts.is_current(start):
            self._finish(start, error)

    def _finish(self, start: Start, error: str) -> None:
        self._drop(start, error)
        if start.launched is not None and start.run is not None:
            start.launched.finish_launch(start.run, error)

    def _drop(self, start: Start, outcome: str) -> None:
        """Forget a start, and tell the starts that depend on it the outcome."""
        self._starts.remove(start)
        self._release(start)
        for other in self._starts.requesters(start.key):
            other.requested[start.wanted.service] = outcome
        self._advance_dependents(start.key)
        for then in start.afterwards:
            then()

    def _release(self, start: Start) -> None:
        """Drop the starts of dependencies that only this start has requested."""
        requested, start.requested = start.requested, {}
        for name, result in requested.items():
            if result is None:
                self._drop_unneeded((start.wanted.project, name))

    def _drop_unneeded(self, key: Key) -> None:
        """Drop the start of a dependency that no launch needs any more."""
        start = self._starts.get(key)
        if start is None or start.launched is not None:
            return
        if not self._starts.requesters(key):
            if self._compose.interrupt(start):
                start.cancelled = _nothing
            self._drop(start, _DROPPED)

    # --- pieces

    def _containers(self, start: Start) -> list[Container]:
        return [c for c in self._facts.containers_of(start.key) if c.id not in start.removed]


def _nothing() -> None:
    """Do nothing: no stop waits for the end of the call."""
