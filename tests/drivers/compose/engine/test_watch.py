"""Tests of the engine watch on a real Docker Engine: containers, images, and loss of the engine."""

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


class RecordingListener:
    """A listener that records all notifications in order, and can wait for them."""

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
            assert self._more.wait_for(condition, DEADLINE), f"not listener within {DEADLINE} s: {self.calls}"

    def loss_reasons(self) -> list[str]:
        """Return the reason of each loss of the engine."""
        return [str(why) for name, why in self.calls if name == "lost"]

    def wait_for_call(self, name: str, times: int = 1) -> None:
        self.wait_for(lambda: sum(called == name for called, _ in self.calls) >= times)

    def wait_for_image(self, tag: str, image: str) -> None:
        self.wait_for(lambda: self.image_ids().get(tag) == image)

    def listed(self) -> dict[str, Container]:
        """Return the containers of the latest `synced`, by id."""
        found = [what for name, what in self.calls if name == "synced"][-1]
        assert isinstance(found, tuple)
        return {container.id: container for container in found[0]}

    def image_ids(self) -> dict[str, str]:
        """Return the image ids of the latest notification."""
        ids: dict[str, str] = {}
        for name, what in self.calls:
            if name == "images" and isinstance(what, dict):
                ids = what
            elif name == "synced" and isinstance(what, tuple):
                ids = what[1]
        return ids

    def changes_of(self, container_id: str) -> list[Container]:
        """Return the `container_changed` notifications of one container."""
        changes = [what for name, what in self.calls if name == "changed"]
        return [what for what in changes if isinstance(what, Container) and what.id == container_id]

    def wait_for_transitions(self, container_id: str, *transitions: tuple[bool, int]) -> list[Container]:
        """Wait for exactly these transitions: whether the container ran, and its exit code."""

        def changes_of() -> list[tuple[bool, int]]:
            found: list[tuple[bool, int]] = []
            for one in self.changes_of(container_id):
                if one.status not in ("created", "removing") and [(one.running, one.exit_code)] != found[-1:]:
                    found.append((one.running, one.exit_code))
            return found

        self.wait_for(lambda: changes_of() == list(transitions))
        return self.changes_of(container_id)


class StartWatch(Protocol):
    def __call__(
        self, host: str, *, ping_after: float = ..., answer_within: float = ...
    ) -> tuple[EngineWatch, RecordingListener]: ...


@pytest.fixture
def start_watch() -> Iterator[StartWatch]:
    """Return a starter of watches; close them at the end, and check that no thread is left."""
    with ExitStack() as started:

        def start(
            host: str, *, ping_after: float = 10.0, answer_within: float = 5.0
        ) -> tuple[EngineWatch, RecordingListener]:
            listener = RecordingListener()
            watch = EngineWatch(
                lambda: Connection(host),
                listener,
                lambda callback: callback(),
                ping_after=ping_after,
                answer_within=answer_within,
            )
            started.callback(watch.close)
            watch.start()
            return watch, listener

        yield start
    assert not threads()


def threads() -> list[str]:
    """Return the names of live threads of engine watches."""
    return [thread.name for thread in threading.enumerate() if thread.name in ("hm-engine", "hm-events")]


def catches_term(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("\nSigCgt:")[2].split()[0], 16) >> (signal.SIGTERM - 1) & 1)


class ServiceContainer:
    """A container with the labels of a compose service, made by `docker create`."""

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
        """Kill the main process without the engine's help."""
        os.kill(int(self._engine.docker("inspect", "--format", "{{.State.Pid}}", self.id)), signal.SIGKILL)

    def remove(self) -> None:
        for found in self._engine.containers_of(self.project):
            self._engine.docker("rm", "--force", found)


@pytest.fixture
def new_service(engine: DockerEngine, image: str) -> Iterator[Callable[..., ServiceContainer]]:
    made: list[ServiceContainer] = []

    def make(*options: str, command: Sequence[str] = ()) -> ServiceContainer:
        made.append(ServiceContainer(engine, image, *options, command=command))
        return made[-1]

    yield make
    for service in made:
        service.remove()


# --- containers


def test_the_first_notification_lists_all_service_containers(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    running, created, oneoff = (
        new_service("--tty"),
        new_service(),
        new_service("--label=com.docker.compose.oneoff=True"),
    )
    running.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    found = listener.listed()
    assert (found[running.id].running, found[running.id].project) == (True, running.project)
    assert Path(f"/proc/{found[running.id].pid}").exists()
    assert found[running.id].tty
    assert (found[created.id].running, found[created.id].status) == (False, "created")
    assert oneoff.id not in found


def test_creation_start_stop_and_removal_are_notified(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service = new_service()
    listener.wait_for(lambda: [one.status for one in listener.changes_of(service.id)] == ["created"])
    service.docker("start")
    started = listener.wait_for_transitions(service.id, (True, 0))[-1]
    assert started.started is not None
    while not catches_term(started.pid):  # without a handler, SIGTERM does not end PID 1
        time.sleep(0.01)
    service.docker("stop")
    ended = listener.wait_for_transitions(service.id, (True, 0), (False, 0))[-1]
    assert (ended.pid, ended.status, ended.started) == (0, "exited", started.started)
    assert ended.finished is not None
    assert ended.finished > started.started
    service.docker("rm")
    listener.wait_for(lambda: ("gone", service.id) in listener.calls)


def test_a_killed_container_has_exit_code_137(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    service = new_service()
    service.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service.docker("kill")
    listener.wait_for_transitions(service.id, (False, 137))


def test_a_very_short_run_has_a_start_and_an_end(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service = new_service(command=["sh", "-c", "exit 7"])
    service.docker("start")
    listener.wait_for_transitions(service.id, (True, 0), (False, 7))


def test_a_restart_by_the_engine_is_an_end_and_a_start(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    service = new_service("--restart=always")
    service.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    before = listener.listed()[service.id]
    service.kill_process()
    changes_of = listener.wait_for_transitions(service.id, (False, 137), (True, 0))
    assert changes_of[-1].pid != before.pid
    assert changes_of[-1].started != before.started


def test_pause_rename_and_health_are_notified(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    service = new_service("--health-cmd=true", "--health-interval=1s")
    service.docker("start")
    _, listener = start_watch(engine.host)
    listener.wait_for_call("synced")

    def latest() -> Container:
        return [listener.listed()[service.id], *listener.changes_of(service.id)][-1]

    listener.wait_for(lambda: latest().health == "healthy")
    service.docker("pause")
    listener.wait_for(lambda: latest().status == "paused")
    assert latest().running
    service.docker("unpause")
    listener.wait_for(lambda: latest().status == "running")
    name = unique_name()
    engine.docker("rename", service.id, name)
    listener.wait_for(lambda: latest().name == name)


def test_a_refresh_calls_back_after_all_notifications(
    start_watch: StartWatch, engine: DockerEngine, new_service: Callable[..., ServiceContainer]
) -> None:
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    service = new_service()
    service.docker("start")
    watch.refresh(service.project, listener.refreshed)
    listener.wait_for_call("refreshed")
    calls_before = listener.calls[: listener.calls.index(("refreshed", None))]
    # Other tests start and end containers in the same engine.
    changes_of = [what for _, what in calls_before if isinstance(what, Container) and what.id == service.id]
    assert changes_of[-1].running


# --- images


def test_every_change_of_a_watched_tag_is_notified(
    start_watch: StartWatch, engine: DockerEngine, image: str
) -> None:
    tag, other = f"{unique_name()}:1", f"{unique_name()}:1"
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    watch.watch_images(frozenset({tag, "no image can be called THIS"}))
    listener.wait_for_image(tag, UNKNOWN_IMAGE)
    assert listener.image_ids()["no image can be called THIS"] == UNKNOWN_IMAGE
    first = engine.import_image(tag)
    listener.wait_for_image(tag, first)
    second = engine.import_image(other)
    engine.docker("tag", other, tag)
    listener.wait_for_image(tag, second)
    engine.docker("rmi", tag)
    listener.wait_for_image(tag, UNKNOWN_IMAGE)


# --- the engine


@pytest.fixture
def private_engine_with_image(private_engine: Callable[..., PrivateEngine]) -> tuple[PrivateEngine, str]:
    """Return an engine with an image, and the image's tag."""
    private = private_engine()
    private.engine.import_image("agent:1")
    return private, "agent:1"


def test_an_end_while_the_engine_was_away_shows_after_its_return(
    start_watch: StartWatch, private_engine_with_image: tuple[PrivateEngine, str]
) -> None:
    private, image = private_engine_with_image
    service, removed = ServiceContainer(private.engine, image), ServiceContainer(private.engine, image)
    service.docker("start")
    watch, listener = start_watch(private.engine.host)
    listener.wait_for_call("synced")
    assert listener.listed()[service.id].running
    private.kill()
    listener.wait_for_call("lost")
    assert "systemctl start docker" in listener.loss_reasons()[0]
    watch.refresh(service.project, listener.refreshed)
    private.start()  # ends the containers that the engine before has left
    listener.wait_for_call("synced", times=2)
    listener.wait_for_call("refreshed")
    assert not listener.listed()[service.id].running
    assert removed.id in listener.listed()
    service.docker("start")
    listener.wait_for_transitions(service.id, (True, 0))


def test_a_frozen_engine_is_lost_until_it_thaws(
    start_watch: StartWatch, private_engine_with_image: tuple[PrivateEngine, str]
) -> None:
    private, image = private_engine_with_image
    service = ServiceContainer(private.engine, image)
    service.docker("start")
    _, listener = start_watch(private.engine.host, ping_after=0.3, answer_within=3.0)
    listener.wait_for_call("synced")
    private.freeze()
    try:
        listener.wait_for_call("lost")
        assert "has not answered for 3.3 s" in listener.loss_reasons()[0]
    finally:
        private.thaw()
    listener.wait_for_call("synced", times=2)
    assert listener.listed()[service.id].running
    service.docker("kill")
    listener.wait_for_transitions(service.id, (False, 137))


def test_a_silent_engine_that_answers_is_not_lost(start_watch: StartWatch, engine: DockerEngine) -> None:
    requested = threading.Semaphore(0)

    class Counting(Connection):
        def check_alive(self, within: float) -> None:
            super().check_alive(within)
            requested.release()

    listener = RecordingListener()
    watch = EngineWatch(
        lambda: Counting(engine.host),
        listener,
        lambda callback: callback(),
        ping_after=0.05,
        answer_within=10.0,
    )
    watch.start()
    try:
        for _ in range(3):
            assert requested.acquire(timeout=DEADLINE)
        assert not [name for name, _ in listener.calls if name == "lost"]
    finally:
        watch.close()


def test_a_missing_engine_is_notified_once(start_watch: StartWatch, tmp_path: Path) -> None:
    attempts = threading.Semaphore(0)

    def new_connection() -> Connection:
        attempts.release()
        return Connection(f"unix://{tmp_path}/docker.sock")

    listener = RecordingListener()
    watch = EngineWatch(new_connection, listener, lambda callback: callback())
    watch.start()
    try:
        for _ in range(3):
            assert attempts.acquire(timeout=DEADLINE)
        assert [name for name, _ in listener.calls] == ["lost"]
        assert f"{tmp_path}/docker.sock" in str(listener.calls[0][1])
    finally:
        watch.close()


def test_close_while_connected_leaves_no_thread(start_watch: StartWatch, engine: DockerEngine) -> None:
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    assert sorted(threads()) == ["hm-engine", "hm-events"]
    watch.close()
    assert not threads()
    watch.close()


def test_close_while_the_engine_is_frozen_does_not_wait_for_it(
    start_watch: StartWatch, private_engine_with_image: tuple[PrivateEngine, str]
) -> None:
    private, _ = private_engine_with_image
    private.freeze()
    try:
        requested = threading.Event()

        class Asking(Connection):
            def negotiate(self, within: float) -> None:
                requested.set()
                super().negotiate(within)

        # A timeout so long that the test would notice a close that waits for it.
        watch = EngineWatch(
            lambda: Asking(private.engine.host),
            RecordingListener(),
            lambda callback: callback(),
            answer_within=10 * DEADLINE,
        )
        watch.start()
        assert requested.wait(DEADLINE)
        watch.close()
        assert not threads()
    finally:
        private.thaw()


def test_close_without_an_engine_leaves_no_thread(start_watch: StartWatch, tmp_path: Path) -> None:
    watch, listener = start_watch(f"unix://{tmp_path}/docker.sock")
    listener.wait_for_call("lost")
    watch.close()
    assert not threads()


def test_a_watch_that_was_not_started_can_be_closed() -> None:
    EngineWatch(
        lambda: Connection("unix:///nowhere"), RecordingListener(), lambda callback: callback()
    ).close()


def test_connect_negotiates_the_api_version(engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    connection = connect()
    try:
        assert connection.api_version == engine.api.version()["ApiVersion"]
        assert isinstance(connection.info(), dict)
    finally:
        connection.close()
