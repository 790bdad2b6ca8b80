"""Fixtures for tests that need a real Docker engine, or a cgroup.

Where there is none they are skipped with the reason; in CI (CI=true) they fail.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.cgroups import cgroup_or_reason, remove_cgroup
from tests.docker_engine import (
    DockerEngine,
    MakeProject,
    Registry,
    compose_projects,
    compose_v1_or_reason,
    engine_or_reason,
    running_registry,
    unique_name,
)
from tests.private_engine import StartEngine, private_engines

if os.environ.get("CI") != "true":  # for which hypothesis has a profile of its own, likewise
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


def pytest_configure() -> None:
    # A shell's background job starts with INT ignored, and so would all that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have what this test needs: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def nobody_is_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid of 0, as an instance has that does not run, would be this whole run of tests."""
    kill = os.kill

    def kill_one(pid: int, signum: int) -> None:
        assert pid > 0, "there is no process to be signalled"
        kill(pid, signum)

    monkeypatch.setattr(os, "kill", kill_one)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup (version 2) of the test's own; whatever is left in it is killed after the test."""
    if isinstance(found := cgroup_or_reason(), str):
        pytest.skip(found)  # in CI too: many a container has none that may be written
    yield found
    remove_cgroup(found)


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerEngine]:
    """The engine of this machine: the one of DOCKER_HOST, or the one on the default socket."""
    found = engine_or_reason()
    if isinstance(found, str):
        _skip(found)
    try:
        yield found
    finally:
        found.remove_images()


@pytest.fixture(scope="session")
def image(engine: DockerEngine) -> str:
    """The tag of an image, in `engine`, whose containers wait until told to end, and then do at once."""
    tag = f"{unique_name()}:1"
    engine.import_image(tag)
    return tag


@pytest.fixture(scope="session")
def registry(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An empty registry on loopback."""
    if shutil.which("docker-registry") is None:
        _skip("no docker-registry; run `make engine` as root")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running
        running.remove_pulled(engine)


@pytest.fixture
def compose_project(tmp_path: Path, engine: DockerEngine) -> Iterator[MakeProject]:
    """Makes compose projects, compose_project(text), which are gone from the engine at the end."""
    with compose_projects(tmp_path, engine) as make:
        yield make


@pytest.fixture
def private_engine() -> Iterator[StartEngine]:
    """Starts engines of the test's own, which it may kill or freeze: private_engine("--live-restore")."""
    found = engine_or_reason()
    if isinstance(found, str):
        _skip(found)
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        _skip("a private engine needs root and dockerd; run `make engine` as root, and the tests too")
    with private_engines() as start:
        yield start


@pytest.fixture(scope="session")
def compose_v1() -> Path:
    """The standalone Compose v1."""
    found = compose_v1_or_reason()
    if isinstance(found, str):
        _skip(found)
    return found
