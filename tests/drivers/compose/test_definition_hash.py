"""Tests of compose's hash of a definition that uses containers of other services."""

from __future__ import annotations

from pathlib import Path

from hostmanager_server.drivers.compose.cli.program import find_program
from hostmanager_server.drivers.compose.definition_hash import hash_with_containers, hashable
from hostmanager_server.drivers.compose.engine.container import from_inspect
from hostmanager_server.drivers.compose.files.project import read_project
from hostmanager_server.drivers.compose.service_status import container_differs

from tests.docker_engine import MakeProject

FILE = """
services:
  x: {{image: "{image}", network_mode: none, volumes: [/data], environment: {{A: "<&>é"}}}}
  u:
    image: "{image}"
    network_mode: "service:x"
    ipc: "service:x"
    pid: "service:x"
    volumes_from: ["x:ro"]
    environment: {{A: "{value}"}}
  e: {{image: "{image}", network_mode: "service:x", env_file: [e.env]}}
"""


def test_compose_hashes_the_ids_of_used_containers(compose_project: MakeProject, image: str) -> None:
    project = compose_project(FILE.format(image=image, value="<&>é"))
    (env_file := project.file.parent / "e.env").write_text("B=1\n")
    project.compose("up", "--no-start", "u", "e")
    environ = project.engine.environment
    program = find_program("", working_dir=Path("/"), environ=environ)
    services = read_project(program, (str(project.file),), environ=environ).services
    project.write(FILE.format(image=image, value="other"))
    env_file.write_text("B=2\n")
    changed = read_project(program, (str(project.file),), environ=environ).services
    for name in ("u", "e"):
        (container_id,) = project.containers(name)
        container = from_inspect(project.engine.api.inspect_container(container_id))
        assert container is not None
        assert services[name].hashed_definition
        assert container.config_hash != services[name].config_hash
        assert not container_differs(services[name], container, container.image)
        assert container_differs(changed[name], container, container.image)


def test_a_definition_that_compose_hashes_in_another_way_is_not_compared() -> None:
    assert hashable({"image": "a:1", "network_mode": "service:x"}, "0" * 64) == ""


def test_only_names_of_services_are_replaced() -> None:
    text = '{"network_mode": "container:other"}'
    assert hash_with_containers(text, (("network_mode", "container:1"),)) == hash_with_containers(text, ())
