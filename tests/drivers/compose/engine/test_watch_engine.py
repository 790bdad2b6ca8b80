"""Tests of the engine watch on an engine that disappears, and of closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hostmanager_server.drivers.compose.engine.connection import Connection, connect
from hostmanager_server.drivers.compose.engine.watch import EngineWatch

from tests.docker_engine import DEADLINE, RealEngine
from tests.drivers.compose.engine.watch_harness import (
    RecordingListener,
    ServiceContainer,
    StartWatch,
    threads,
)
from tests.private_engine import PrivateEngine


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


def test_a_silent_engine_that_answers_is_not_lost(start_watch: StartWatch, engine: RealEngine) -> None:
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


def test_close_while_connected_leaves_no_thread(start_watch: StartWatch, engine: RealEngine) -> None:
    watch, listener = start_watch(engine.host)
    listener.wait_for_call("synced")
    assert sorted(threads()) == ["hm-engine", "hm-events", "hm-events"]
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


def test_connect_negotiates_the_api_version(engine: RealEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    connection = connect()
    try:
        assert connection.api_version == engine.api.version()["ApiVersion"]
        assert isinstance(connection.info(), dict)
    finally:
        connection.close()
