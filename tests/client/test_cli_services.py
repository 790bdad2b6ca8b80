"""Output of `hostmanager status` and `hostmanager show` for compose services."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli.app import cli

from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., list[str]]

IMAGE = "sha256:973444266ffb95c1cc718ad8446323c5240938a923c5c15ed35e3b001fc9ed3a"
NEWER = "sha256:0d1c2b3a495867ffeeddccbbaa9988776655443322110ffeeddccbbaa9988776"
CONTAINER = "579b03d47b33e8ec37430bfaff73900dd224f383412167e2fb81906cb70352ff"


@pytest.fixture
def run(socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))

    def invoke(*args: str) -> list[str]:
        result = CliRunner().invoke(cli, args, prog_name="hostmanager", catch_exceptions=False)
        assert result.exit_code == 0
        return result.output.splitlines()

    return invoke


def service(**fields: Any) -> pb.ComposeService:
    """Return a healthy compose service, except for the given fields."""
    values: dict[str, Any] = {
        "compose_file": "/lab/compose.yaml",
        "project": "lab",
        "service": "ocs-data1",
        "image_tag": "agent:1",
        "image_id": IMAGE,
        "container_found": True,
        "container_id": CONTAINER,
        "container_name": "lab-ocs-data1-1",
        "running": True,
        "running_image": IMAGE,
        "status": "running",
        "replicas": 1,
        "running_replicas": 1,
        "pid": 8151,
    }
    return pb.ComposeService(**(values | fields))


def shown(run: Run, instance_id: str = "data1") -> dict[str, str]:
    """Return the properties of `show` by name."""
    pairs = (line.partition(":") for line in run("show", instance_id))
    return {name: text.strip() for name, _, text in pairs}


def test_the_pid_of_a_service_is_that_of_its_container(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", compose_service=service())
    daemon.add("data2", compose_service=service(running=False, pid=0))
    column = run("status")[3].split().index("PID")
    rows = {words[0]: words for line in run("status")[4:] if (words := line.replace(" s", "s").split())}
    assert (rows["data1"][column], rows["data2"][column]) == ("8151", "-")


def test_show_has_the_definition_of_a_service_and_its_containers(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", compose_service=service(replicas=3, running_replicas=2, health="healthy"))
    pairs = shown(run)
    assert {name: pairs.get(name) for name in list(pairs)[-10:]} == {
        "compose file": "/lab/compose.yaml",
        "project": "lab",
        "service": "ocs-data1",
        "image": "agent:1 (973444266ffb)",
        "containers": "2 of 3 run",
        "container": "lab-ocs-data1-1 (579b03d47b33)",
        "status": "running",
        "health": "healthy",
        "pid": "8151",
        "running image": "973444266ffb",
    }


def test_show_has_the_reasons_for_a_restart(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", compose_service=service())
    assert "definition" not in shown(run)
    daemon.add("data1", compose_service=service(image_id=NEWER, definition_changed=True))
    pairs = shown(run)
    assert pairs["image"] == "agent:1 (0d1c2b3a4958)"
    assert pairs["running image"] == "973444266ffb, older than the tag"
    assert pairs["definition"] == "changed since the container was made"


def test_show_has_the_exit_of_a_container(daemon: FakeDaemon, run: Run) -> None:
    ended = service(
        running=False, status="exited", exit_code=3, running_replicas=0, pid=0, image_id="unknown"
    )
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, compose_service=ended)
    pairs = shown(run)
    assert pairs["image"] == "agent:1 (not on the engine)"
    assert pairs["containers"] == "0 of 1 run"
    assert pairs["status"] == "exited (3)"
    assert "pid" not in pairs
    assert "running image" not in pairs


def test_show_omits_containers_while_the_engine_is_away(daemon: FakeDaemon, run: Run) -> None:
    nothing = {"container_found": False, "container_id": "", "running": False, "image_id": "unknown"}
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, compose_service=service(**nothing))
    assert shown(run)["container"] == "none"
    daemon.add("data1", next_action=pb.NEXT_ACTION_UNKNOWN, compose_service=service(**nothing))
    pairs = shown(run)
    assert (pairs["image"], pairs["container"]) == ("agent:1", "not known")
    assert "containers" not in pairs


def test_show_of_an_instance_without_a_service_is_short(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_UNKNOWN, compose_service=pb.ComposeService())
    assert {"compose file", "image", "container"}.isdisjoint(shown(run))


def test_an_exit_without_a_pid_has_none(daemon: FakeDaemon, run: Run) -> None:
    instance = daemon.add("data1", compose_service=service())
    instance.last_exit.code = 137
    daemon.publish(instance)
    assert shown(run)["last exit"].endswith(", not asked for")
    instance.last_exit.pid = 8150
    daemon.publish(instance)
    assert shown(run)["last exit"].endswith(", not asked for, pid 8150")


def test_status_names_orphans_and_images_to_pull_once_each(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", compose_service=service())
    daemon.new_tags = {"data2": "agent:2", "data1": "agent:2", "web": "grafana:9"}
    for number, name in enumerate(("ocs-old", "ocs-older")):
        daemon.orphans[str(number)] = pb.Orphan(container_id=str(number), service=name)
    assert run("status")[2:4] == [
        "orphaned containers: ocs-old, ocs-older",
        "images to pull: agent:2 (for data1, data2), grafana:9 (for web)",
    ]


def test_the_health_has_a_column_if_any_service_has_a_check(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", compose_service=service())
    assert "HEALTH" not in run("status")[3]
    daemon.add("data2", compose_service=service(health="unhealthy"))
    header, *rows = run("status")[3:]
    column = header.index("HEALTH")
    assert [row[column:].split()[0] for row in rows] == ["-", "unhealthy"]
    assert header.index("STATE") < column < header.index("SINCE")


def test_what_the_engine_did_is_shown(daemon: FakeDaemon, run: Run) -> None:
    last_exit = pb.Exit(code=137, out_of_memory=True)
    restarting = service(running=False, pid=0, status="restarting")
    message = "last exit: code 137 (out of memory); the engine restarts the container"
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, message=message, last_exit=last_exit,
               compose_service=restarting)  # fmt: skip
    daemon.add("data2", compose_service=service(replicas=3, running_replicas=3, paused_replicas=1))
    output = "\n".join(run("status"))
    assert "code 137 (out of memory)" in output
    assert "the engine restarts the container" in output
    assert shown(run, "data2")["containers"] == "3 of 3 run, 1 paused"


def test_a_service_without_wanted_containers_says_so(daemon: FakeDaemon, run: Run) -> None:
    finished = "finished: the compose file wants no containers (scale or replicas is 0)"
    last_exit = pb.Exit(code=0)
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN, reason="Finished", message=finished,
               last_exit=last_exit, compose_service=service(replicas=0))  # fmt: skip
    assert finished in "\n".join(run("status"))
