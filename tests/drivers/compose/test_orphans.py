"""Tests of the removal of orphaned containers, on a real engine."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator

import pytest
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.orphans import ContainerRemover

from tests.docker_engine import DEADLINE, RealEngine, unique_name

IGNORES_TERM = "trap '' TERM INT; while true; do sleep 1000; done"
LONG = 1000.0  # s


def connect_to(host: str) -> Connection:
    connection = Connection(host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def remover(engine: RealEngine) -> Iterator[ContainerRemover]:
    remover = ContainerRemover(functools.partial(connect_to, engine.host))
    yield remover
    remover.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hm-orphans")]


@pytest.fixture
def name(engine: RealEngine) -> Iterator[str]:
    name = unique_name()
    yield name
    if exists(engine, name):
        engine.docker("rm", "--force", name)


def exists(engine: RealEngine, name: str) -> bool:
    return bool(engine.api.containers(all=True, filters={"name": name}))


def running(engine: RealEngine, name: str) -> bool:
    return bool(engine.api.containers(filters={"name": name}))


def remove_container(
    remover: ContainerRemover,
    name: str,
    stop_timeout: float = 10.0,
    is_orphan: Callable[[], bool] = lambda: True,
) -> str:
    async def remove() -> str:
        async with asyncio.timeout(DEADLINE):
            return await remover.remove(name, stop_timeout, is_orphan)

    return asyncio.run(remove())


@pytest.mark.parametrize("stop_timeout", [10.0, 0.0])
def test_a_running_container_is_stopped_and_removed(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str, stop_timeout: float
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert remove_container(remover, name, stop_timeout) == ""
    assert not exists(engine, name)


def test_a_container_that_ignores_term_is_killed(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image, "sh", "-c", IGNORES_TERM)
    assert remove_container(remover, name, 0.5) == ""
    assert not exists(engine, name)


def test_a_stopped_container_is_removed(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--name", name, image, "true")
    assert remove_container(remover, name) == ""
    assert not exists(engine, name)


def test_a_paused_container_is_removed(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    engine.docker("pause", name)
    assert remove_container(remover, name, 1.0) == ""
    assert not exists(engine, name)


def test_a_missing_container_counts_as_removed(remover: ContainerRemover) -> None:
    assert remove_container(remover, "0" * 64) == ""
    assert remove_container(remover, "0" * 64, is_orphan=lambda: False) == ""


def test_a_container_in_use_again_is_not_stopped(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert "left alone" in remove_container(remover, name, is_orphan=lambda: False)
    assert running(engine, name)


def test_a_container_in_use_again_during_its_stop_is_not_removed(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert "left alone" in remove_container(remover, name, is_orphan=lambda: running(engine, name))
    assert exists(engine, name)


def test_a_cancelled_caller_does_not_wait_for_the_stop(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image, "sh", "-c", IGNORES_TERM)
    step_checked = threading.Event()

    def is_orphan() -> bool:
        step_checked.set()
        return True

    async def leave() -> None:
        removal = asyncio.create_task(remover.remove(name, LONG, is_orphan))
        assert await asyncio.to_thread(step_checked.wait, DEADLINE)
        removal.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removal

    asyncio.run(leave())
    # Within the deadline of a test, far from LONG; the fixture checks that no thread is left.
    remover.close()
    assert exists(engine, name)


def test_simultaneous_removals_of_one_container_all_succeed(
    engine: RealEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)

    async def both() -> list[str]:
        return await asyncio.gather(*(remover.remove(name, 0.0, lambda: True) for _ in range(4)))

    assert asyncio.run(both()) == [""] * 4
    assert not exists(engine, name)


def test_a_missing_engine_is_reported_as_the_reason() -> None:
    remover = ContainerRemover(functools.partial(connect_to, "unix:///nonexistent/docker.sock"))
    assert "cannot find a Docker Engine" in remove_container(remover, "0" * 64)
    remover.close()
