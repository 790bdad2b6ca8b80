"""A Docker Engine in memory, and compose on it, both driven by a test.

Both use the fake clock of the test.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hostmanager_server.core.catalog import Catalog, Project
from hostmanager_server.core.spec import ServiceDependency, ServiceSpec
from hostmanager_server.drivers.compose.cli.process import CallKind, ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.program import ComposeProgram
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.contract import EngineListener
from hostmanager_server.drivers.compose.files.catalog_reader import CatalogReader
from hostmanager_server.drivers.compose.files.file_watch import FileWatch
from hostmanager_server.drivers.compose.starts.start_facts import ActionDone
from hostmanager_server.drivers.contract import CallSoon

from tests.fakes.driver import FakePoller

FILE = "/lab/compose.yaml"
IMAGE = "agent:1"
AWAY = "the engine is away"
_OPTIONS_OF_COMPOSE = ("-f", "-p", "--profile")


def service(name: str, **changes: object) -> ServiceSpec:
    """Return a service; `depends_on` names dependencies that must only have started."""
    names = changes.pop("depends_on", ())
    assert isinstance(names, tuple)
    changes.setdefault("dependencies", tuple(ServiceDependency(name) for name in names))
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
class FakeComposeEngine:
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

    def make_watch(self, listener: EngineListener, call_soon: CallSoon) -> FakeComposeEngine:
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

    def __init__(
        self, kind: CallKind, words: list[str], done: Callable[[str], None], touched: frozenset[str]
    ) -> None:
        super().__init__()
        self.kind = kind
        self.verb = words[0]
        self.options = [word for word in words[1:] if word.startswith("--")]
        self.names = [word for word in words[1:] if not word.startswith("--")]
        self.done = done
        self.touched = touched  # the services whose containers the call may make
        self.interrupts: list[bool] = []

    def __str__(self) -> str:
        return " ".join((self.verb, *self.names))

    def interrupt(self) -> None:
        self.interrupts.append(True)

    def kill(self) -> None:
        """Do nothing: an interrupted fake call ends when the test says so."""


class FakeCompose(ComposeCalls):
    """Compose on a FakeComposeEngine; checks that no two calls may make the same container."""

    def __init__(self, engine: FakeComposeEngine, reader: FakeReader) -> None:
        super().__init__(lambda callback: None, {})
        self._engine = engine
        self._reader = reader
        self.running_calls: list[FakeCall] = []
        self.log: list[str] = []
        self.unmakeable: set[str] = set()  # services for which the engine makes no container

    @property
    def current_call(self) -> FakeCall | None:
        return self.running_calls[0] if self.running_calls else None

    def start(
        self,
        kind: CallKind,
        argv: Sequence[str],
        working_dir: str,
        done: Callable[[str], None],
        *,
        stop_grace: float = 0.0,
    ) -> ComposeCall:
        words = list(argv[1:])
        while words[0] in _OPTIONS_OF_COMPOSE:
            del words[:2]
        names = [word for word in words[1:] if not word.startswith("--")]
        assert len(set(names)) == len(names) > 0
        touched = self._missing(names) if words[0] == "up" else frozenset()
        for other in self.running_calls:
            assert touched.isdisjoint(other.touched), f"{argv} beside {other}"
            assert {words[0], other.verb} != {"rm", "up"} or touched.isdisjoint(other.names)
        call = FakeCall(kind, words, done, touched)
        self.running_calls.append(call)
        self.log.append(str(call))
        return call

    def _missing(self, names: Sequence[str]) -> frozenset[str]:
        """Return the services without a container, of these services and their dependencies."""
        found: set[str] = set()
        queue = list(names)
        while queue:
            name = queue.pop()
            wanted = self._reader.services.get(name)
            if wanted is not None:
                if len(self._engine.containers_of(name)) < wanted.replicas:
                    found.add(name)
                queue.extend(wanted.depends_on)
        return frozenset(found)

    def close(self) -> None:
        self.running_calls.clear()

    def proceed(self, count: int | None = None, call: FakeCall | None = None) -> str:
        """Carry out a call, by default the oldest, for its next `count` services, or for all.

        Returns why the call failed, or the empty string.
        """
        call = call or self.current_call
        assert call is not None
        if not self._engine.present:
            return f"Cannot connect: {AWAY}"
        wanted = self._reader.services
        missing = [n for n in call.names if n not in wanted or wanted[n].image not in self._engine.images]
        if call.verb == "up" and missing:
            return f"no such image for {missing[0]}"
        bad = [name for name in call.names if name in self.unmakeable]
        if call.verb == "up" and bad:
            return f"invalid mount for {bad[0]}"
        for name in call.names[:count]:
            if call.verb == "rm":
                for container in self._engine.containers_of(name):
                    self._engine.remove(container)
            else:
                self._make(name)
        return ""

    def finish(self, call: FakeCall | None = None) -> None:
        """Carry out the rest of a call, by default the oldest, and end it."""
        call = call or self.current_call
        assert call is not None
        error = "interrupted" if call.interrupts else self.proceed(call=call)
        if call in self.running_calls:
            self.running_calls.remove(call)
        call.done(error)

    def _make(self, name: str) -> None:
        """Make the missing containers of a service and its dependencies, as `up --no-start --no-recreate`."""
        for each in sorted(self._missing([name])):
            wanted = self._reader.services[each]
            if wanted.image in self._engine.images and each not in self.unmakeable:
                numbers = {container.number for container in self._engine.containers_of(each)}
                for number in sorted(set(range(1, wanted.replicas + 1)) - numbers):
                    self._engine.create(wanted, number)


class FakeFetch:
    """A pull that has not ended."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


class FakeActions:
    """Starts and removals of containers on a FakeComposeEngine, a moment later."""

    def __init__(self, engine: FakeComposeEngine, poller: FakePoller) -> None:
        self._engine = engine
        self._poller = poller
        self.log: list[str] = []
        self.fetches: list[str] = []  # the images that were asked for
        self.pullable: dict[str, str] = {}  # images in the registry, with their ids
        self.held: set[str] = set()  # images whose pulls hang
        self.exit_codes: dict[str, int] = {}  # exit codes of services that end at once
        self.unstartable: set[str] = set()  # services that the engine cannot start
        self.broken: set[str] = set()  # ids of containers that the engine cannot start

    def start(self, container_id: str, done: ActionDone, *, repeated: bool) -> None:
        self._poller.call_later(0.0, lambda: self._start(container_id, done))

    def _start(self, container_id: str, done: ActionDone) -> None:
        container = self._engine.containers.get(container_id)
        if not self._engine.present:
            done(AWAY, False)
        elif container is None:
            done(f"no such container: {container_id}", True)
        elif (
            container.service in self.unstartable or container.unstartable or container_id in self.broken
        ) and not container.running:
            done(f"cannot start {container.service} in container {container_id}", True)
        else:
            self.log.append(f"start {container.service}")
            if not container.running:
                self._engine.run(container)
                if container.service in self.exit_codes:
                    ended = self._engine.containers[container_id]
                    self._engine.end(ended, self.exit_codes[container.service])
            done("", False)

    def remove(self, container_id: str, done: ActionDone) -> None:
        self._poller.call_later(0.0, lambda: self._remove(container_id, done))

    def _remove(self, container_id: str, done: ActionDone) -> None:
        container = self._engine.containers.get(container_id)
        if not self._engine.present:
            done(AWAY, False)
        elif container is not None and container.running:
            done("cannot remove a running container", True)
        else:
            if container is not None:
                self.log.append(f"remove {container.service}")
                self._engine.remove(container)
            done("", False)

    def signal(self, container_ids: Sequence[str], signum: int, done: Callable[[str], None]) -> None:
        self.log += [f"signal {self._engine.containers[each].service} {signum}" for each in container_ids]
        self._poller.call_later(0.0, lambda: done(""))

    def fetch(self, image: str, platform: str, done: ActionDone) -> FakeFetch:
        fetch = FakeFetch()
        self.fetches.append(image)

        def finish() -> None:
            if fetch.aborted:
                done("stopped", False)
            elif image in self.held:
                self._poller.call_later(1.0, finish)
            elif image in self._engine.images:
                done("", False)
            elif image in self.pullable:
                self._engine.images[image] = self.pullable[image]
                done("", False)
            else:
                done(f"pull access denied for {image}", True)

        self._poller.call_later(0.0, finish)
        return fetch

    def close(self) -> None:
        """Do nothing."""
