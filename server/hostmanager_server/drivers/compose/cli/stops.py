"""Calls of compose that stop services and remove their containers.

A stop waits for no start: requests that arrive together share calls, and later requests get a call beside
them. Compose stops and removes the named services only, so calls for different services do not disturb one
another.

Compose removes no container before all containers of its call have ended. So only services with the same
time to stop share a call, and services that depend on one another, which compose stops in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hostmanager_server.core.events import RunKey
from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.cli.gathering import Gathering
from hostmanager_server.drivers.compose.cli.process import CallKind, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.followed_service import FollowedService
from hostmanager_server.drivers.compose.service_containers import Key
from hostmanager_server.drivers.contract import Poller

# Inspects the containers of a project, then calls back.
RefreshProject = Callable[[str, Callable[[], None]], None]
_Stop = tuple[FollowedService, RunKey]


class StopQueue:
    """The stops of all projects; each service learns when its call has ended.

    `command` returns the command line for services of the same files, and may raise ComposeError. `ended`
    receives each service without a stop any more. Belongs to the supervisor thread.
    """

    def __init__(
        self,
        poller: Poller,
        calls: ComposeCalls,
        refresh: RefreshProject,
        command: Callable[[Sequence[ServiceSpec]], list[str]],
        ended: Callable[[Key], None],
    ) -> None:
        self._calls = calls
        self._refresh = refresh
        self._command = command
        self._ended = ended
        self._running: list[Sequence[_Stop]] = []  # the stops of each call
        self._gathering = Gathering(poller, self._start_calls)
        self._requested: dict[RunKey, FollowedService] = {}
        self._closed = False

    def request(self, service: FollowedService) -> None:
        """Request the stop of the service's present run, and the removal of its containers."""
        assert service.run is not None
        self._requested[service.run] = service
        self._gathering.join()

    def is_stopping(self, key: Key) -> bool:
        """Return whether compose stops and removes the containers of a service, or is about to."""
        requested = (service.key for run, service in self._requested.items() if service.run == run)
        return key in requested or any(key == service.key for stops in self._running for service, _ in stops)

    def clear(self) -> None:
        """Drop all requests. Running calls go on, and their ends are ignored."""
        self._closed = True
        self._requested.clear()

    def _start_calls(self) -> None:
        requested, self._requested = self._requested, {}
        by_files: dict[tuple[str, ...], list[_Stop]] = {}
        for run, service in requested.items():
            if service.run == run:  # the run has not ended since the request
                by_files.setdefault(service.wanted.files, []).append((service, run))
        for files, stops in [(files, part) for files, each in by_files.items() for part in _parts(each)]:
            self._running.append(stops)
            done = partial(self._finish_call, stops)
            try:
                argv = self._command([service.wanted for service, _ in stops])
            except ComposeError as error:
                done(str(error))
            else:
                grace = _grace_of(stops)
                folder = str(Path(files[0]).parent)
                self._calls.start(CallKind.STOP, argv, folder, done, stop_grace=grace)

    def _finish_call(self, stops: Sequence[_Stop], error: str) -> None:
        """Refresh the project after a call: the engine alone knows the outcome."""
        if not self._closed:
            project = stops[0][0].wanted.project
            self._refresh(project, partial(self._finish_stops, stops, error))

    def _finish_stops(self, stops: Sequence[_Stop], error: str) -> None:
        if self._closed:
            return
        self._running.remove(stops)
        for service, run in stops:
            if service.run == run:
                service.finish_stop(error)
            self._ended(service.key)


def _parts(stops: Sequence[_Stop]) -> list[list[_Stop]]:
    """Split stops of the same files into those that may share a call."""
    parts: dict[float, list[_Stop]] = {}
    for related in _related(stops):
        parts.setdefault(_grace_of(related), []).extend(related)
    return list(parts.values())


def _related(stops: Sequence[_Stop]) -> list[list[_Stop]]:
    """Group services with those of their dependencies that stop, too."""
    groups = {service.wanted.service: [(service, run)] for service, run in stops}
    for service, _ in stops:
        mine = groups[service.wanted.service]
        for theirs in [groups[name] for name in service.wanted.depends_on if name in groups]:
            if theirs is not mine:
                mine.extend(theirs)
                groups.update((other.wanted.service, mine) for other, _ in theirs)
    return list({id(group): group for group in groups.values()}.values())


def _grace_of(stops: Sequence[_Stop]) -> float:
    return max(service.stop_grace for service, _ in stops)
