"""The watch on a real Docker engine: what it tells of containers and images, and of the engine itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hostmanager_server.core.compose import UNKNOWN_IMAGE
from hostmanager_server.drivers.compose.engine.connection import Connection, connect
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.watch import EngineWatch

from tests.docker_engine import DEADLINE, DockerEngine, unique_name
from tests.private_engine import PrivateEngine


class Told:
    """A listener that keeps all it is told, in order, and can wait for it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self._more = threading.Condition()

    def synced(self, containers: Sequence[Container], images: Mapping[str, str]) -> None:
        self._add("synced", (tuple(containers), dict(images)))

    def container_changed(self, container: Container) -> None:
        self._add("changed", container)

    def container_removed(self, container_id: str) -> None:
        self._add("gone", container_id)

    def images_changed(self, ids: Mapping[str, str]) -> None:
        self._add("images", dict(ids))

    def engine_lost(self, why: str) -> None:
        self._add("lost", why)

    def refreshed(self) -> None:
        self._add("refreshed", None)

    def _add(self, name: str, what: object) -> None:
        with self._more:
            self.calls.append((name, what))
            self._more.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._more:
            assert self._more.wait_for(condition, DEADLINE), f"not told within {DEADLINE} s: {self.calls}"

    def losses(self) -> list[str]:
        """Why the engine was lost, each time."""
        return [str(why) for name, why in self.calls if name == "lost"]

    def wait_for_call(self, name: str, times: int = 1) -> None:
        self.wait_for(lambda: sum(called == name for called, _ in self.calls) >= times)

    def wait_for_image(self, tag: str, image: str) -> None:
        self.wait_for(lambda: self.image_ids().get(tag) == image)

    def listed(self) -> dict[str, Container]:
        """By id, as of the latest synced."""
        found = [what for name, what in self.calls if name == "synced"][-1]
        assert isinstance(found, tuple)
        return {container.id: container for container in found[0]}

    def image_ids(self) -> dict[str, str]:
        """As told last."""
        ids: dict[str, str] = {}
        for name, what in self.calls:
            if name == "images" and isinstance(what, dict):
                ids = what
            elif name == "synced" and isinstance(what, tuple):
                ids = what[1]
        return ids

    def life(self, container_id: str) -> list[Container]:
        """What `changed` said of one container."""
        changes = [what for name, what in self.calls if name == "changed"]
        return [what for what in changes if isinstance(what, Container) and what.id == container_id]

    def wait_for_life(self, container_id: str, *stations: tuple[bool, int]) -> list[Container]:
        """Wait until it has gone through these and no others: whether it ran, with what exit code."""

        def life() -> list[tuple[bool, int]]:
            found: list[tuple[bool, int]] = []
            for one in self.life(container_id):
                if one.status not in ("created", "removing") and [(one.running, one.exit_code)] != found[-1:]:
                    found.append((one.running, one.exit_code))
            return found

        self.wait_for(lambda: life() == list(stations))
        return self.life(container_id)


class StartWatch(Protocol):
    def __call__(
        self, host: str, *, ping_after: float = ..., answer_within: float = ...
    ) -> tuple[EngineWatch, Told]: ...


@pytest.fixture
def start_watch() -> Iterator[StartWatch]:
    """Starts watches, and sees to it that none leaves a thread."""
    with ExitStack() as started:

        def start(
            host: str, *, ping_after: float = 10.0, answer_within: float = 5.0
        ) -> tuple[EngineWatch, Told]:
            told = Told()
            watch = EngineWatch(
                lambda: Connection(host),
                told,
                lambda callback: callback(),
                ping_after=ping_after,
                answer_within=answer_within,
            )
            started.callback(watch.close)
            watch.start()
            return watch, told

        yield start
    assert not threads()


def threads() -> list[str]:
    """The names of ours that live."""
    return [thread.name for thread in threading.enumerate() if thread.name in ("hm-engine", "hm-events")]


def listens_to_term(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("\nSigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


class Service:
    """A container that looks like one of a compose service, as `docker run` makes it."""

    def __init__(self, engine: DockerEngine, image: str, *options: str, command: Sequence[str] = ()) -> None:
        self.project = unique_name()
        labels = (f"com.docker.compose.project={self.project}", "com.docker.compose.service=agent")
        arguments = [argument for label in labels for argument in ("--label", label)]
        arguments += ["--network", "none", *options, image, *command]
        self._engine = engine
        self.id = engine.docker("create", *arguments)

    def docker(self, *arguments: str) -> None:
        self._engine.docker(*arguments, self.id)

    def kill_process(self) -> None:
        """Behind the engine's back."""
        os.kill(int(self._engine.docker("inspect", "--format", "{{.State.Pid}}", self.id)), signal.SIGKILL)

    def remove(self) -> None:
        for found in self._engine.containers_of(self.project):
            self._engine.docker("rm", "--force", found)


@pytest.fixture
def new_service(engine: DockerEngine, image: str) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(*options: str, command: Sequence[str] = ()) -> Service:
        made.append(Service(engine, image, *options, command=command))
        return made[-1]

    yield make
    for service in made:
        service.remove()


# --- containers


def test_containers_are_listed(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    running, created, oneoff = (
        new_service("--tty"),
        new_service(),
        new_service("--label=com.docker.compose.oneoff=True"),
    )
    running.docker("start")
    _, told = start_watch(engine.host)
    told.wait_for_call("synced")
    found = told.listed()
    assert (found[running.id].running, found[running.id].project) == (True, running.project)
    assert Path(f"/proc/{found[running.id].pid}").exists()
    assert found[running.id].tty
    assert (found[created.id].running, found[created.id].status) == (False, "created")
    assert oneoff.id not in found


def test_a_life_is_told(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    _, told = start_watch(engine.host)
    told.wait_for_call("synced")
    service = new_service()
    told.wait_for(lambda: [one.status for one in told.life(service.id)] == ["created"])
    service.docker("start")
    started = told.wait_for_life(service.id, (True, 0))[-1]
    assert started.started is not None
    while not listens_to_term(started.pid):  # as PID 1 it would not be ended by it
        time.sleep(0.01)
    service.docker("stop")
    ended = told.wait_for_life(service.id, (True, 0), (False, 0))[-1]
    assert (ended.pid, ended.status, ended.started) == (0, "exited", started.started)
    assert ended.finished is not None
    assert ended.finished > started.started
    service.docker("rm")
    told.wait_for(lambda: ("gone", service.id) in told.calls)


def test_a_kill_has_exit_code_137(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    service = new_service()
    service.docker("start")
    _, told = start_watch(engine.host)
    told.wait_for_call("synced")
    service.docker("kill")
    told.wait_for_life(service.id, (False, 137))


def test_what_ends_as_soon_as_it_starts_is_told_to_start_and_to_end(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    _, told = start_watch(engine.host)
    told.wait_for_call("synced")
    service = new_service(command=["sh", "-c", "exit 7"])
    service.docker("start")
    told.wait_for_life(service.id, (True, 0), (False, 7))


def test_a_restart_by_the_engine_is_two_transitions(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    service = new_service("--restart=always")
    service.docker("start")
    _, told = start_watch(engine.host)
    told.wait_for_call("synced")
    before = told.listed()[service.id]
    service.kill_process()
    life = told.wait_for_life(service.id, (False, 137), (True, 0))
    assert life[-1].pid != before.pid
    assert life[-1].started != before.started


def test_pause_rename_and_health_are_told(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    service = new_service("--health-cmd=true", "--health-interval=1s")
    service.docker("start")
    _, told = start_watch(engine.host)
    told.wait_for_call("synced")

    def latest() -> Container:
        return [told.listed()[service.id], *told.life(service.id)][-1]

    told.wait_for(lambda: latest().health == "healthy")
    service.docker("pause")
    told.wait_for(lambda: latest().status == "paused")
    assert latest().running
    service.docker("unpause")
    told.wait_for(lambda: latest().status == "running")
    name = unique_name()
    engine.docker("rename", service.id, name)
    told.wait_for(lambda: latest().name == name)


def test_a_refresh_answers_when_all_is_told(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., Service]
) -> None:
    watch, told = start_watch(engine.host)
    told.wait_for_call("synced")
    service = new_service()
    service.docker("start")
    watch.refresh(service.project, told.refreshed)
    told.wait_for_call("refreshed")
    told_before = told.calls[: told.calls.index(("refreshed", None))]
    # Others start and end containers of theirs in this engine.
    life = [what for _, what in told_before if isinstance(what, Container) and what.id == service.id]
    assert life[-1].running


# --- images


def test_what_tags_mean_is_told_as_it_changes(
    start_watch: StartWatch, engine: DockerEngine, image: str
) -> None:
    tag, other = f"{unique_name()}:1", f"{unique_name()}:1"
    watch, told = start_watch(engine.host)
    told.wait_for_call("synced")
    watch.watch_images(frozenset({tag, "no image can be called THIS"}))
    told.wait_for_image(tag, UNKNOWN_IMAGE)
    assert told.image_ids()["no image can be called THIS"] == UNKNOWN_IMAGE
    first = engine.import_image(tag)
    told.wait_for_image(tag, first)
    second = engine.import_image(other)
    engine.docker("tag", other, tag)
    told.wait_for_image(tag, second)
    engine.docker("rmi", tag)
    told.wait_for_image(tag, UNKNOWN_IMAGE)


# --- the engine


@pytest.fixture
def own(private_engine: Callable[..., PrivateEngine]) -> tuple[PrivateEngine, str]:
    """An engine with an image; and the image's tag."""
    private = private_engine()
    private.engine.import_image("agent:1")
    return private, "agent:1"


def test_what_died_while_the_engine_was_away_shows_when_it_is_back(
    start_watch: StartWatch, own: tuple[PrivateEngine, str]
) -> None:
    private, image = own
    service, removed = Service(private.engine, image), Service(private.engine, image)
    service.docker("start")
    watch, told = start_watch(private.engine.host)
    told.wait_for_call("synced")
    assert told.listed()[service.id].running
    private.kill()
    told.wait_for_call("lost")
    assert "systemctl start docker" in told.losses()[0]
    watch.refresh(service.project, told.refreshed)
    private.start()  # which ends the containers that an engine before it has left
    told.wait_for_call("synced", times=2)
    told.wait_for_call("refreshed")
    assert not told.listed()[service.id].running
    assert removed.id in told.listed()
    service.docker("start")
    told.wait_for_life(service.id, (True, 0))


def test_a_frozen_engine_is_lost_and_comes_back_when_it_thaws(
    start_watch: StartWatch, own: tuple[PrivateEngine, str]
) -> None:
    private, image = own
    service = Service(private.engine, image)
    service.docker("start")
    _, told = start_watch(private.engine.host, ping_after=0.3, answer_within=3.0)
    told.wait_for_call("synced")
    private.freeze()
    try:
        told.wait_for_call("lost")
        assert "has not answered for 3.3 s" in told.losses()[0]
    finally:
        private.thaw()
    told.wait_for_call("synced", times=2)
    assert told.listed()[service.id].running
    service.docker("kill")
    told.wait_for_life(service.id, (False, 137))


def test_a_silent_engine_that_answers_is_not_lost(start_watch: StartWatch, engine: DockerEngine) -> None:
    asked = threading.Semaphore(0)

    class Counting(Connection):
        def check_alive(self, within: float) -> None:
            super().check_alive(within)
            asked.release()

    told = Told()
    watch = EngineWatch(
        lambda: Counting(engine.host), told, lambda callback: callback(), ping_after=0.05, answer_within=10.0
    )
    watch.start()
    try:
        for _ in range(3):
            assert asked.acquire(timeout=DEADLINE)
        assert not [name for name, _ in told.calls if name == "lost"]
    finally:
        watch.close()


def test_an_engine_that_is_not_there_is_told_once(start_watch: StartWatch, tmp_path: Path) -> None:
    attempts = threading.Semaphore(0)

    def new_connection() -> Connection:
        attempts.release()
        return Connection(f"unix://{tmp_path}/docker.sock")

    told = Told()
    watch = EngineWatch(new_connection, told, lambda callback: callback())
    watch.start()
    try:
        for _ in range(3):
            assert attempts.acquire(timeout=DEADLINE)
        assert [name for name, _ in told.calls] == ["lost"]
        assert f"{tmp_path}/docker.sock" in str(told.calls[0][1])
    finally:
        watch.close()


def test_close_while_connected_leaves_no_thread(start_watch: StartWatch, engine: DockerEngine) -> None:
    watch, told = start_watch(engine.host)
    told.wait_for_call("synced")
    assert sorted(threads()) == ["hm-engine", "hm-events"]
    watch.close()
    assert not threads()
    watch.close()


def test_close_while_the_engine_is_frozen_does_not_wait_for_it(
    start_watch: StartWatch, own: tuple[PrivateEngine, str]
) -> None:
    private, _ = own
    private.freeze()
    try:
        asked = threading.Event()

        class Asking(Connection):
            def negotiate(self, within: float) -> None:
                asked.set()
                super().negotiate(within)

        # A time-out so long that a close which waited for it would be noticed.
        watch = EngineWatch(
            lambda: Asking(private.engine.host),
            Told(),
            lambda callback: callback(),
            answer_within=10 * DEADLINE,
        )
        watch.start()
        assert asked.wait(DEADLINE)
        watch.close()
        assert not threads()
    finally:
        private.thaw()


def test_close_while_there_is_no_engine_leaves_no_thread(start_watch: StartWatch, tmp_path: Path) -> None:
    watch, told = start_watch(f"unix://{tmp_path}/docker.sock")
    told.wait_for_call("lost")
    watch.close()
    assert not threads()


def test_a_watch_that_was_not_started_can_be_closed() -> None:
    EngineWatch(lambda: Connection("unix:///nowhere"), Told(), lambda callback: callback()).close()


def test_connect_agrees_on_the_version_of_the_api(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    connection = connect()
    try:
        assert connection.api_version == engine.api.version()["ApiVersion"]
        assert isinstance(connection.info(), dict)
    finally:
        connection.close()
