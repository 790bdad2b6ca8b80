"""Fixtures of real Docker engines, registries and cgroups, and common guards.

On a machine without an engine, tests with an engine are skipped with the reason; in CI (CI=true) they fail.
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
    MakeProject,
    RealEngine,
    Registry,
    compose_projects,
    compose_v1_or_reason,
    engine_or_reason,
    running_registry,
    unique_name,
)
from tests.podman import DIFFERENCES
from tests.private_engine import StartEngine, private_engines

# A daemon that may not write its bytecode compiles all modules at each start, which takes 0.6 s of CPU.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if os.environ.get("CI") != "true":  # in CI, hypothesis loads its own profile, also without a deadline
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")


def pytest_configure() -> None:
    # A background job of a shell starts with SIGINT ignored. Children of the tests would inherit the setting,
    # and would not end on the SIGINT of a test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have what this test needs: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def guard_kill_pid_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse os.kill with a pid of 0 or less.

    The pid of an instance without a process is 0; a signal to pid 0 would reach the whole test run.
    """
    kill = os.kill

    def kill_one(pid: int, signum: int) -> None:
        assert pid > 0, f"cannot signal pid {pid}: the instance has no process"
        kill(pid, signum)

    monkeypatch.setattr(os, "kill", kill_one)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of known differences, when `scripts/with-engine podman` runs the suite."""
    if os.environ.get("TEST_ENGINE") != "podman":
        return
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in DIFFERENCES:
            item.add_marker(pytest.mark.skip(reason=f"on Podman: {DIFFERENCES[name]}"))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Create a cgroup (version 2) for the test, and remove it with its processes."""
    if isinstance(found := cgroup_or_reason(), str):
        pytest.skip(found)  # in CI too: many containers have no writable cgroup
    yield found
    remove_cgroup(found)


@pytest.fixture(scope="session")
def engine() -> Iterator[RealEngine]:
    """Return the engine of this machine, at DOCKER_HOST or on the default socket."""
    found = engine_or_reason()
    if isinstance(found, str):
        _skip(found)
    try:
        yield found
    finally:
        found.remove_images()


@pytest.fixture(scope="session")
def image(engine: RealEngine) -> str:
    """Return the tag of an image in `engine`; its containers end on SIGINT or SIGTERM."""
    tag = f"{unique_name()}:1"
    engine.import_image(tag)
    return tag


@pytest.fixture(scope="session")
def registry(engine: RealEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Run an empty registry on loopback."""
    if shutil.which("docker-registry") is None:
        _skip("no docker-registry; run `make engine` as root")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running
        running.remove_pulled(engine)


@pytest.fixture
def compose_project(tmp_path: Path, engine: RealEngine) -> Iterator[MakeProject]:
    """Return compose_project(text), which makes projects for one test."""
    with compose_projects(tmp_path, engine) as make:
        yield make


@pytest.fixture
def private_engine() -> Iterator[StartEngine]:
    """Return private_engine("--live-restore"), which starts an engine.

    The test may kill or freeze the engine.
    """
    found = engine_or_reason()
    if isinstance(found, str):
        _skip(found)
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        _skip("a private engine needs root and dockerd; run `make engine` as root, and the tests too")
    with private_engines() as start:
        yield start


@pytest.fixture(scope="session")
def compose_v1() -> Path:
    """Return the path of the standalone Compose v1."""
    found = compose_v1_or_reason()
    if isinstance(found, str):
        _skip(found)
    return found
