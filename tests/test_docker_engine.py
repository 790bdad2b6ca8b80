"""Tests of the fixtures for a real Docker Engine."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from tests.docker_engine import (
    DEADLINE,
    DockerCallError,
    MakeProject,
    RealEngine,
    Registry,
    compose_projects,
    unique_name,
)
from tests.private_engine import PrivateEngine, StartEngine

SERVICE = "services:\n  one:\n    image: {image}\n"
TALKS = 'CMD ["cat", "/greeting"]'


def image_id(engine: RealEngine, reference: str) -> str | None:
    """Return the id of an image, or None if the engine has no such image."""
    try:
        # types-docker forgot the types of this one.
        return str(engine.api.inspect_image(reference)["Id"])  # type: ignore[no-untyped-call]
    except docker.errors.ImageNotFound:
        return None


def state_of(engine: RealEngine, container: str) -> tuple[bool, str]:
    """Return whether the container runs, and its start time."""
    state = engine.api.inspect_container(container)["State"]
    return state["Running"], state["StartedAt"]


def test_an_imported_image_runs_with_its_files(engine: RealEngine) -> None:
    tag = f"{unique_name()}:1"
    engine.import_image(tag, [TALKS], {"/greeting": b"hello"})
    assert engine.docker("run", "--rm", "--network=none", tag) == "hello"


def test_importing_again_moves_the_tag_to_another_image(engine: RealEngine) -> None:
    tag = f"{unique_name()}:1"
    first = engine.import_image(tag, files={"/version": b"1"})
    second = engine.import_image(tag, files={"/version": b"2"})
    assert first != second
    assert image_id(engine, tag) == second


def test_imported_images_are_removed(engine: RealEngine) -> None:
    apart = RealEngine(engine.host)
    tag = f"{unique_name()}:1"
    images = [apart.import_image(tag), apart.import_image(tag)]
    apart.remove_images()
    assert [image_id(engine, reference) for reference in (tag, *images)] == [None, None, None]


def test_the_error_for_a_failed_command_quotes_docker(engine: RealEngine) -> None:
    with pytest.raises(DockerCallError, match=r"docker inspect no-such-thing: exit code 1: .*No such object"):
        engine.docker("inspect", "no-such-thing")


def test_an_image_pushed_to_the_registry_can_be_pulled(engine: RealEngine, registry: Registry) -> None:
    tag = f"{unique_name()}:1"
    image = engine.import_image(tag, [TALKS], {"/greeting": b"from afar"})
    reference = registry.push(engine, tag)
    engine.docker("rmi", tag)
    assert image_id(engine, image) is None
    engine.docker("pull", reference)
    assert engine.docker("run", "--rm", "--network=none", reference) == "from afar"


def test_a_project_is_removed_with_services_that_left_its_file(
    engine: RealEngine, image: str, tmp_path: Path
) -> None:
    with compose_projects(tmp_path, engine) as make:
        project = make(SERVICE.format(image=image) + f"  two:\n    image: {image}\n")
        project.compose("up", "--detach")
        project.write(SERVICE.format(image=image))
        assert len(project.containers()) == 2
        assert len(project.containers("two")) == 1
        assert engine.docker("network", "ls", "--quiet", "--filter", f"name={project.name}")
    assert project.containers() == []
    assert engine.docker("network", "ls", "--quiet", "--filter", f"name={project.name}") == ""


def test_compose_v1_and_v2_derive_the_same_project(
    compose_project: MakeProject, image: str, compose_v1: Path
) -> None:
    project = compose_project(SERVICE.format(image=image))
    environment = project.engine.environment
    subprocess.run([compose_v1, "-f", project.file, "up", "-d"], env=environment, check=True, timeout=60)
    (by_v1,) = project.containers("one")
    assert project.compose("ps", "--quiet") == by_v1


def test_a_frozen_engine_does_not_answer_until_it_is_thawed(
    private_engine: StartEngine,
) -> None:
    private = private_engine()
    private.freeze()
    assert not private.engine.answers()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(private.engine.host.removeprefix("unix://"))
        asking.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        private.thaw()
        assert asking.recv(100).startswith(b"HTTP/1.0 200 OK")


def test_containers_outlive_a_killed_engine_that_takes_them_back(
    private_engine: StartEngine,
) -> None:
    private = private_engine("--live-restore")
    private.engine.import_image("base:1")
    container = private.engine.docker("run", "--detach", "--network=none", "base:1")
    before = state_of(private.engine, container)
    private.kill()
    assert not private.engine.answers()
    private.start()
    assert state_of(private.engine, container) == before


def test_containers_end_with_an_engine_that_is_restarted(
    private_engine: StartEngine,
) -> None:
    private = private_engine()
    private.engine.import_image("base:1")
    container = private.engine.docker("run", "--detach", "--network=none", "base:1")
    private.restart()
    assert not state_of(private.engine, container)[0]


def test_a_private_engine_leaves_the_networks_of_the_machine_alone(
    private_engine: StartEngine,
) -> None:
    before = {entry.name for entry in Path("/sys/class/net").iterdir()}
    private = private_engine()
    network = private.engine.docker("network", "create", "--driver=bridge", "apart")
    after = {entry.name for entry in Path("/sys/class/net").iterdir()}
    assert "docker0" in after or "docker0" not in before
    assert f"br-{network[:12]}" not in after


@pytest.mark.parametrize("leave", [PrivateEngine.kill, PrivateEngine.freeze, PrivateEngine.stop])
def test_a_closed_private_engine_leaves_no_process_mount_or_file(
    leave: Callable[[PrivateEngine], None],
    private_engine: StartEngine,
    compose_project: MakeProject,
) -> None:
    private = private_engine("--live-restore")
    private.engine.import_image("base:1")
    project = compose_project(SERVICE.format(image="base:1"), on=private.engine)
    project.compose("up", "--detach")
    (container,) = project.containers()
    inside = os.pidfd_open(int(private.engine.api.inspect_container(container)["State"]["Pid"]))
    leave(private)
    private.close()
    assert select.select([inside], [], [], DEADLINE)[0], "a process of a container is alive"
    os.close(inside)
    assert str(private.directory) not in Path("/proc/self/mountinfo").read_text()
    assert not private.directory.exists()
