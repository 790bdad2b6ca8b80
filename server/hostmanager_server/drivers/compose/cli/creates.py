"""Calls of compose that make containers, without starting any.

Two calls of one project must not make the same container, network or volume. So a project has one call at a
time, for all requests so far. Making containers takes compose a moment; a call that takes longer waits for
something (an image to be refreshed or built, a plugin of the engine), and other calls may then run beside the
call, for services that have no missing container in common with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hostmanager.values import dataclass, field

from hostmanager_server.core.events import Instant
from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.cli.gathering import Gathering
from hostmanager_server.drivers.compose.cli.process import CallKind, ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeError
from hostmanager_server.drivers.compose.cli.stops import RefreshProject
from hostmanager_server.drivers.contract import Poller

PATIENCE = 5.0  # s that a call of a project may keep the others waiting
KILL_DELAY = 5.0  # s from the interrupt of a call to its kill

_NOTHING_MADE = "compose reports success, but made no container"


@dataclass(eq=False, slots=True)
class Creation:
    """A request for the missing containers of a service.

    `missing` returns the names of the services that still lack containers, of the service and its
    dependencies. `done` receives why the containers are missing still, or the empty string. A creation that
    is `alone` shares no call, because the call may take long.
    """

    wanted: ServiceSpec
    missing: Callable[[], frozenset[str]]
    done: Callable[[str], None]
    alone: bool
    batch: _Batch | None = None  # of its call
    withdrawn: bool = False

    @property
    def created(self) -> bool:
        """Whether the service itself has all its containers."""
        return self.wanted.service not in self.missing()


@dataclass(eq=False, slots=True)
class _Batch:
    """The creations of one call."""

    creations: list[Creation]
    begun: Instant
    missing: frozenset[str]
    call: ComposeCall | None = None
    interrupted: bool = False


@dataclass(eq=False, slots=True)
class _Project:
    """The requests and calls of one project."""

    gathering: Gathering
    requested: list[Creation] = field(default_factory=list)
    parts: list[list[Creation]] = field(default_factory=list)  # of failed batches
    running: list[_Batch] = field(default_factory=list)


class CreateQueue:
    """The creations of all projects.

    `command` returns the command line for services of the same files, and may raise ComposeError. Belongs to
    the supervisor thread.
    """

    def __init__(
        self,
        poller: Poller,
        calls: ComposeCalls,
        refresh: RefreshProject,
        command: Callable[[Sequence[ServiceSpec]], list[str]],
    ) -> None:
        self._poller = poller
        self._calls = calls
        self._refresh = refresh
        self._command = command
        self._projects: dict[str, _Project] = {}

    def request(self, creation: Creation) -> None:
        """Have compose make the missing containers of a service, with those of its dependencies."""
        name = creation.wanted.project
        project = self._projects.get(name)
        if project is None:
            project = _Project(Gathering(self._poller, partial(self._start_calls, name)))
            self._projects[name] = project
        project.requested.append(creation)
        project.gathering.join()

    def withdraw(self, creation: Creation) -> bool:
        """Drop a creation, and return True; if its call runs already, interrupt the call and return False.

        After an interrupt, `done` is called at the end of the call; the other services of the call are
        requested again.
        """
        creation.withdrawn = True
        batch = creation.batch
        if batch is None:
            return True
        if batch.call is not None and not batch.interrupted:
            batch.interrupted = True
            batch.call.interrupt()
            self._poller.call_later(KILL_DELAY, batch.call.kill)
        return False

    def clear(self) -> None:
        """Drop all requests. Running calls go on, and their ends are ignored."""
        self._projects.clear()

    def _start_calls(self, name: str) -> None:
        project = self._projects.get(name)
        while project is not None and (batch := self._next_batch(project)) is not None:
            self._start_call(name, project, batch)

    def _next_batch(self, project: _Project) -> _Batch | None:
        """Return the creations for the next call, or None."""
        now = self._poller.now()
        if any(now.mono < batch.begun.mono + PATIENCE for batch in project.running):
            return None
        taken = frozenset().union(*(batch.missing for batch in project.running))
        for group in self._groups(project):
            wanted = [c for c in group if not c.withdrawn and taken.isdisjoint(c.missing())]
            if wanted:
                missing = frozenset().union(*(creation.missing() for creation in wanted))
                return _Batch(wanted, now, missing)
        return None

    @staticmethod
    def _groups(project: _Project) -> list[list[Creation]]:
        """Return the groups that may form a call, the best first.

        A call that may take long, and the parts of a failed call, must not delay the others.
        """
        project.requested = [c for c in project.requested if not c.withdrawn]
        by_files: dict[tuple[str, ...], list[Creation]] = {}
        for creation in project.requested:
            if not creation.alone:
                by_files.setdefault(creation.wanted.files, []).append(creation)
        slow = [[creation] for creation in project.requested if creation.alone]
        return [*by_files.values(), *project.parts, *slow]

    def _start_call(self, name: str, project: _Project, batch: _Batch) -> None:
        for creation in batch.creations:
            creation.batch = batch
        project.requested = [c for c in project.requested if c.batch is not batch]
        project.parts = [
            rest for part in project.parts if (rest := [c for c in part if c.batch is not batch])
        ]
        project.running.append(batch)
        wanted = [creation.wanted for creation in batch.creations]
        done = partial(self._finish_call, name, batch)
        try:
            argv = self._command(wanted)
        except ComposeError as error:
            done(str(error))
        else:
            folder = str(Path(wanted[0].files[0]).parent)
            batch.call = self._calls.start(CallKind.START, argv, folder, done)
            self._poller.call_later(PATIENCE, partial(self._start_calls, name))

    def _finish_call(self, name: str, batch: _Batch, error: str) -> None:
        """Refresh the project after a call: the engine alone knows the outcome."""
        batch.call = None
        if name in self._projects:
            self._refresh(name, partial(self._finish_batch, name, batch, error))

    def _finish_batch(self, name: str, batch: _Batch, error: str) -> None:
        project = self._projects.get(name)
        if project is None or batch not in project.running:
            return
        project.running.remove(batch)
        for creation in batch.creations:
            creation.batch = None
        made = [creation for creation in batch.creations if creation.withdrawn or creation.created]
        left = [creation for creation in batch.creations if creation not in made]
        failed: list[Creation] = []
        if batch.interrupted:
            project.requested.extend(left)
        elif len(left) == 1 or not error:
            failed = left
        else:  # compose makes none of a dozen containers when it cannot make one, and does not say which
            middle = (len(left) + 1) // 2
            project.parts.extend(part for part in (left[:middle], left[middle:]) if part)
        for creation in made:
            creation.done("")
        for creation in failed:
            creation.done(error or _NOTHING_MADE)
        self._start_calls(name)
