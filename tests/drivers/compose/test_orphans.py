"""Removing containers through a real engine."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator

import pytest
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.orphans import ContainerRemover

from tests.docker_engine import DEADLINE, DockerEngine, unique_name

DEAF = "trap '' TERM INT; while true; do sleep 1000; done"
LONG = 1000.0  # s


def connect_to(host: str) -> Connection:
    connection = Connection(host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def remover(engine: DockerEngine) -> Iterator[ContainerRemover]:
    remover = ContainerRemover(functools.partial(connect_to, engine.host))
    yield remover
    remover.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hm-orphans")]


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    name = unique_name()
    yield name
    if exists(engine, name):
        engine.docker("rm", "--force", name)


def exists(engine: DockerEngine, name: str) -> bool:
    return bool(engine.api.containers(all=True, filters={"name": name}))


def running(engine: DockerEngine, name: str) -> bool:
    return bool(engine.api.containers(filters={"name": name}))


def removed(
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
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str, stop_timeout: float
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert removed(remover, name, stop_timeout) == ""
    assert not exists(engine, name)


def test_one_that_does_not_end_is_killed_in_the_end(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image, "sh", "-c", DEAF)
    assert removed(remover, name, 0.5) == ""
    assert not exists(engine, name)


def test_one_that_has_ended_is_removed(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--name", name, image, "true")
    assert removed(remover, name) == ""
    assert not exists(engine, name)


def test_one_that_is_paused_is_removed(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    engine.docker("pause", name)
    assert removed(remover, name, 1.0) == ""
    assert not exists(engine, name)


def test_one_that_is_gone_counts_as_removed(remover: ContainerRemover) -> None:
    assert removed(remover, "0" * 64) == ""
    assert removed(remover, "0" * 64, is_orphan=lambda: False) == ""


def test_one_that_is_in_use_again_is_not_touched(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert "left alone" in removed(remover, name, is_orphan=lambda: False)
    assert running(engine, name)


def test_one_that_comes_into_use_while_it_stops_is_not_removed(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert "left alone" in removed(remover, name, is_orphan=lambda: running(engine, name))
    assert exists(engine, name)


def test_who_leaves_waits_for_no_stop(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image, "sh", "-c", DEAF)
    asked = threading.Event()

    def is_orphan() -> bool:
        asked.set()
        return True

    async def leave() -> None:
        removal = asyncio.create_task(remover.remove(name, LONG, is_orphan))
        assert await asyncio.to_thread(asked.wait, DEADLINE)
        removal.cancel()
        with pytest.raises(asyncio.CancelledError):
            await removal

    asyncio.run(leave())
    # Within the deadline of a test, far from LONG; the fixture sees that no thread is left.
    remover.close()
    assert exists(engine, name)


def test_two_who_remove_the_same_one_both_see_it_gone(
    engine: DockerEngine, image: str, remover: ContainerRemover, name: str
) -> None:
    engine.docker("run", "--detach", "--name", name, image)

    async def both() -> list[str]:
        return await asyncio.gather(*(remover.remove(name, 0.0, lambda: True) for _ in range(4)))

    assert asyncio.run(both()) == [""] * 4
    assert not exists(engine, name)


def test_no_engine_is_the_reason_why_it_is_still_there() -> None:
    remover = ContainerRemover(functools.partial(connect_to, "unix:///nonexistent/docker.sock"))
    assert "cannot find a Docker Engine" in removed(remover, "0" * 64)
    remover.close()
