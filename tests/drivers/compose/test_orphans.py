"""Removing containers through a real engine."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from hostmanager_server.drivers.compose.connection import Connection
from hostmanager_server.drivers.compose.orphans import remove_container

from tests.docker_engine import DockerEngine, unique_name


def dial(engine: DockerEngine) -> Connection:
    connection = Connection(engine.host)
    connection.negotiate(10.0)
    return connection


@pytest.fixture
def name(engine: DockerEngine) -> Iterator[str]:
    name = unique_name()
    yield name
    if engine.api.containers(all=True, filters={"name": name}):
        engine.docker("rm", "--force", name)


def exists(engine: DockerEngine, name: str) -> bool:
    return bool(engine.api.containers(all=True, filters={"name": name}))


@pytest.mark.parametrize("stop_timeout", [10.0, 0.0])
def test_a_running_container_is_stopped_and_removed(
    engine: DockerEngine, image: str, name: str, stop_timeout: float
) -> None:
    engine.docker("run", "--detach", "--name", name, image)
    assert remove_container(functools.partial(dial, engine), name, stop_timeout) == ""
    assert not exists(engine, name)


def test_one_that_does_not_end_is_killed_in_the_end(engine: DockerEngine, image: str, name: str) -> None:
    deaf = "trap '' TERM INT; while true; do sleep 1000; done"
    engine.docker("run", "--detach", "--name", name, image, "sh", "-c", deaf)
    assert remove_container(functools.partial(dial, engine), name, 0.5) == ""
    assert not exists(engine, name)


def test_one_that_has_ended_is_removed(engine: DockerEngine, image: str, name: str) -> None:
    engine.docker("run", "--name", name, image, "true")
    assert remove_container(functools.partial(dial, engine), name, 10.0) == ""
    assert not exists(engine, name)


def test_one_that_is_gone_counts_as_removed(engine: DockerEngine) -> None:
    assert remove_container(functools.partial(dial, engine), "0" * 64, 10.0) == ""


def test_no_engine_is_the_reason_why_it_is_still_there() -> None:
    def nobody() -> Connection:
        connection = Connection("unix:///nonexistent/docker.sock")
        connection.negotiate(1.0)
        return connection

    assert "there is no Docker Engine" in remove_container(nobody, "0" * 64, 10.0)
