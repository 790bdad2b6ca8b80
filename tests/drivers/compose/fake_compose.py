"""A Docker Engine in memory, and compose on it, both driven by a test.

Both use the fake clock of the test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hostmanager_server.core.catalog import Catalog, Project
from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.cli.process import ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeProgram
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.contract import EngineListener
from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from hostmanager_server.drivers.contract import CallSoon

from tests.fakes.driver import FakePoller

FILE = "/lab/compose.yaml"
IMAGE = "agent:1"
AWAY = "the engine is away"
_OPTIONS_OF_COMPOSE = ("-f", "-p", "--profile")


def service(name: str, **changes: object) -> ServiceSpec:
    settings: dict[str, object] = {"image": IMAGE, "config_hash": "hash", **changes}
    return ServiceSpec("lab", (FILE,), name, **settings)  # type: ignore[arg-type]  # one call site for all


class FakeReader(CatalogReader):
    """A catalog reader without files: the test sets the services."""

    def __init__(self, *services: ServiceSpec) -> None:
        super().__init__([FILE], prefix="", program="", working_dir=Path("/"), environ={})
        self.program = ComposeProgram(("compose",), (2, 26))
        self.services = {each.service: each for each in services}

    def load(self) -> Catalog:
        return Catalog("", (Project("lab", (FILE,), dict(self.services)),), {FILE: ()})

    def watch(self, files: FileWatch) -> bool:
        return False


@dataclass
class FakeEngine:
    """An engine that notifies its listener of every change, a moment later."""

    poller: FakePoller
    listener: EngineListener | None = None
    present: bool = True
    images: dict[str, str] = field(default_factory=lambda: {IMAGE: "sha256:1"})
    containers: dict[str, Container] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _refreshes: list[Callable[[], None]] = field(default_factory=list)
    watched_projects: frozenset[str] = frozenset()
    _started: bool = False
    _closed: bool = False

    # --- EngineWatcher

    def make_watch(self, listener: EngineListener, call_soon: CallSoon) -> FakeEngine:
        self.listener = listener
        return self

    def start(self) -> None:
        self._started = True
        if self.present:
            self._sync()
        else:
            self._notify(lambda notify: notify.engine_lost(AWAY))

    def close(self) -> None:
        self._closed = True

    def watch_projects(self, projects: frozenset[str]) -> None:
        self.watched_projects = projects
        if self._started and self.present:
            self._sync()

    def watch_images(self, tags: frozenset[str]) -> None:
        """Do nothing: the fake engine always reports all its images."""

    def refresh(self, project: str, then: Callable[[], None] | None = None) -> None:
        if then is not None and self.present:
            self._notify(lambda _: then())
        elif then is not None:
            self._refreshes.append(then)

    def _sync(self) -> None:
        projects, images = self.watched_projects, dict(self.images)
        containers = tuple(each for each in self.containers.values() if each.project in projects)
        self._notify(lambda notify: notify.synced(projects, containers, images))

    def _notify(self, call: Callable[[EngineListener], None]) -> None:
        def notify() -> None:
            if self.listener is not None and not self._closed:
                call(self.listener)

        self.poller.call_later(0.0, notify)

    # --- actions of the test

    def leave(self) -> None:
        if self.present:
            self.present = False
            self._notify(lambda notify: notify.engine_lost(AWAY))

    def come_back(self) -> None:
        if not self.present:
            self.present = True
            self._sync()
            for then in self._refreshes:
                self.refresh("lab", then)
            self._refreshes.clear()

    def containers_of(self, name: str) -> list[Container]:
        return [each for each in self.containers.values() if each.service == name]

    def running(self, name: str) -> list[Container]:
        return [each for each in self.containers_of(name) if each.running]

    def create(self, wanted: ServiceSpec, number: int) -> Container:
        """Add a container that was never started."""
        container = Container(
            id=f"c{next(self._ids)}", name=f"lab-{wanted.service}-{number}", project=wanted.project,
            service=wanted.service, number=number, config_files=wanted.files, config_hash=wanted.config_hash,
            image=self.images[wanted.image], running=False, status="created", exit_code=0, started=None,
            finished=None, pid=0, health="", tty=False,
        )  # fmt: skip
        self.put(container)
        return container

    def run(self, container: Container) -> None:
        now = self.poller.now().wall
        self.put(replace(container, running=True, status="running", started=now, finished=None, pid=100))

    def end(self, container: Container, code: int) -> None:
        now = self.poller.now().wall
        self.put(
            replace(container, running=False, status="exited", exit_code=code, finished=now, pid=0)
        )  # fmt: skip

    def leave_unstartable(self, container: Container) -> None:
        """Make a container unstartable, as an engine does that dies during the start."""
        self.put(replace(container, error=f"task {container.id}: already exists", exit_code=128))

    def remove(self, container: Container) -> None:
        if self.containers[container.id].running:
            self.end(container, 0)
        del self.containers[container.id]
        if self.present:
            self._notify(lambda notify: notify.container_removed(container.id))

    def put(self, container: Container) -> None:
        self.containers[container.id] = container
        if self.present and container.project in self.watched_projects:
            self._notify(lambda notify: notify.container_changed(container))


class FakeCall(ComposeCall):
    """A call of compose that runs until a test finishes the call."""

    def __init__(self, verb: str, options: list[str], names: list[str], done: Callable[[str], None]) -> None:
        super().__init__()
        self.verb = verb
        self.options = options
        self.names = names
        self.done = done
        self.interrupts: list[bool] = []

    def __str__(self) -> str:
        return " ".join((self.verb, *self.names))

    def interrupt(self) -> None:
        self.interrupts.append(True)


class FakeCompose(ComposeCalls):
    """Compose on a FakeEngine. With only one project, calls never overlap."""

    def __init__(self, engine: FakeEngine, reader: FakeReader) -> None:
        super().__init__(lambda callback: None, {})
        self._engine = engine
        self._reader = reader
        self.current_call: FakeCall | None = None
        self.log: list[str] = []
        self.exit_codes: dict[str, int] = {}  # exit codes of services that end at once
        self.unstartable: set[str] = set()  # services that the engine creates, but cannot start

    def start(
        self, argv: Sequence[str], working_dir: str, done: Callable[[str], None], *, stop_grace: float = 0.0
    ) -> ComposeCall:
        assert self.current_call is None, f"{argv} beside {self.current_call}"
        words = list(argv[1:])
        while words[0] in _OPTIONS_OF_COMPOSE:
            del words[:2]
        options = [word for word in words[1:] if word.startswith("--")]
        names = [word for word in words[1:] if not word.startswith("--")]
        assert len(set(names)) == len(names) > 0
        self.current_call = FakeCall(words[0], options, names, done)
        self.log.append(str(self.current_call))
        return self.current_call

    def close(self) -> None:
        self.current_call = None

    def proceed(self, count: int | None = None) -> str:
        """Carry out the call for its next `count` services, or for all.

        Returns why the call failed, or the empty string.
        """
        call = self.current_call
        assert call is not None
        if not self._engine.present:
            return f"Cannot connect: {AWAY}"
        wanted = self._reader.services
        missing = [n for n in call.names if n not in wanted or wanted[n].image not in self._engine.images]
        if call.verb == "up" and missing:
            return f"no such image for {missing[0]}"
        error = ""
        for name in call.names[:count]:
            if call.verb == "rm":
                for container in self._engine.containers_of(name):
                    if "--stop" in call.options or not container.running:
                        self._engine.remove(container)
            else:
                error = self._up(wanted[name], recreate="--no-recreate" not in call.options) or error
        return error

    def finish(self) -> None:
        """Carry out the rest of the call, and end it."""
        call = self.current_call
        assert call is not None
        error = "interrupted" if call.interrupts else self.proceed()
        self.current_call = None
        call.done(error)

    def _up(self, wanted: ServiceSpec, *, recreate: bool) -> str:
        engine = self._engine
        for container in engine.containers_of(wanted.service):
            stale = (
                container.config_hash != wanted.config_hash or container.image != engine.images[wanted.image]
            )
            if recreate and stale:
                engine.remove(container)
        numbers = {container.number for container in engine.containers_of(wanted.service)}
        for number in sorted(set(range(1, wanted.replicas + 1)) - numbers):
            engine.create(wanted, number)
        for container in engine.containers_of(wanted.service):
            if container.running:
                continue
            if wanted.service in self.unstartable or container.unstartable:
                return f"cannot start {wanted.service}"
            engine.run(container)
            if wanted.service in self.exit_codes:
                engine.end(engine.containers[container.id], self.exit_codes[wanted.service])
        return ""
