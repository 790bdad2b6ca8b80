"""End-to-end tests of compose services that do not work, and of changes and words of compose users."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.lab import DOWN, UP, Lab, all_up, entry, is_gone, is_up, wait_for
from tests.waiting import wait_until

GROWS = "until ls /tmp/go; do sleep 0.1; done; x=0123456789; while true; do x=$$x$$x; done"
CHECK = {"test": ["CMD", "ls", "/tmp/well"], "interval": "200ms", "retries": 1, "start_period": "0s"}


def reasons(events: list[pb.Event]) -> list[str]:
    return [event.reason for event in events]


def test_a_service_that_does_not_work_says_why(lab: Lab) -> None:
    lab.write(
        {
            "ocs-paused": {},
            "ocs-sick": {"healthcheck": CHECK},
            "ocs-large": {"command": ["sh", "-c", GROWS], "mem_limit": "8m"},
            "ocs-none": {"deploy": {"replicas": 0}},
            "loop": {"command": ["sh", "-c", "exit 4"], "restart": "always"},
        }
    )
    large = entry("large", restart="never")
    lab.site.write([entry("paused"), entry("sick"), large, entry("none")])
    daemon = lab.serve()
    all_up(daemon, "paused", "sick", "large")
    life = lab.life("ocs-paused")
    lab.engine.docker("pause", life[0])
    lab.engine.docker("exec", *lab.ids("ocs-large"), "touch", "/tmp/go")

    paused = wait_for(daemon, "paused", lambda i: i.reason == "Paused")
    assert paused.next_action == pb.NEXT_ACTION_WAIT_START
    assert (paused.compose_service.status, paused.compose_service.paused_replicas) == ("paused", 1)
    assert f"docker unpause {paused.compose_service.container_name}" in paused.message
    lab.engine.docker("unpause", life[0])
    wait_for(daemon, "paused", lambda i: is_up(i) and i.reason == "Running")
    assert lab.life("ocs-paused") == life
    lab.engine.docker("pause", life[0])
    wait_for(daemon, "paused", lambda i: i.reason == "Paused")
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["paused"]), timeout=20)
    wait_for(daemon, "paused", lambda i: is_up(i) and i.compose_service.container_id != life[0])
    lab.engine.docker("pause", *lab.ids("ocs-paused"))
    wait_for(daemon, "paused", lambda i: i.reason == "Paused")
    daemon.update(paused="down", loop="up")
    wait_for(daemon, "paused", is_gone)
    told = [e.reason for e in daemon.events("paused") if e.kind == pb.EVENT_KIND_CONDITION]
    assert told == ["Paused", "Resumed", "Paused", "Paused"]

    sick = wait_for(daemon, "sick", lambda i: i.reason == "Unhealthy")
    assert (sick.next_action, sick.compose_service.health) == (UP, "unhealthy")
    lab.engine.docker("exec", *lab.ids("ocs-sick"), "touch", "/tmp/well")
    wait_for(daemon, "sick", lambda i: i.reason == "Running" and i.compose_service.health == "healthy")
    assert reasons(daemon.events("sick"))[-2:] == ["Unhealthy", "Healthy"]

    ended = wait_for(daemon, "large", lambda i: i.next_action == DOWN)
    assert (ended.last_exit.code, ended.last_exit.out_of_memory) == (137, True)
    assert "out of memory" in ended.last_exit.message
    assert "out of memory" in daemon.events("large")[-1].message

    none = daemon.instance("none")
    assert (none.next_action, none.reason, none.consecutive_failures) == (DOWN, "Finished", 0)
    assert "no containers" in none.message
    assert none.observed_generation == none.generation
    loop = wait_for(daemon, "loop", lambda i: i.compose_service.status == "restarting")
    wait_for(daemon, "loop", lambda i: "the engine restarts the container" in i.message)
    assert loop.target_state == pb.TARGET_STATE_PASSIVE


def test_changed_contents_need_a_restart_and_containers_suit_compose(lab: Lab) -> None:
    folder = lab.project.file.parent
    files = {"a.env": "A=1\n", "key": "one"}
    for name, text in files.items():
        (folder / name).write_text(text)

    def write(inline: str) -> None:
        lab.write(
            {
                "ocs-env": {"env_file": ["a.env"], "environment": {"HOME_OF_SITE": "${OCS_CONFIG_DIR}"}},
                "ocs-secret": {"secrets": ["key"]},
                "ocs-inline": {"configs": ["inline"], "environment": {"VALUE": "${NOT_SET_ANYWHERE}"}},
            },
            secrets={"key": {"file": "./key"}},
            configs={"inline": {"content": inline}},
        )

    write("one")
    names = ["env", "secret", "inline"]
    lab.site.write([entry(name) for name in names])
    lab.site.environ = lab.engine.environment | {"OCS_CONFIG_DIR": ""}  # as for a daemon without a unit
    daemon = lab.serve()
    all_up(daemon, *names)

    def outdated() -> set[str]:
        return {name for name, instance in daemon.instances().items() if instance.restart_required}

    read = daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager.config_parse_status
    (unset,) = read[str(lab.project.file)].problems
    assert (unset.severity, unset.line) == (pb.SEVERITY_WARNING, 1)
    assert "NOT_SET_ANYWHERE is not set" in unset.message
    assert outdated() == set()
    by_hand_equals_ours(lab, names)

    steps = [("env", folder / "a.env", "A=2\n"), ("secret", folder / "key", "two")]
    expected: set[str] = set()
    for name, file, text in steps:
        fresh = file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(file)
        expected.add(name)
        wait_until(lambda: outdated() == expected, f"{expected} to need a restart")
    write("two")
    wait_until(lambda: outdated() == {*expected, "inline"}, "the inline config to need a restart")
    (folder / "key").write_text("one")  # as the container has it
    wait_until(lambda: "secret" not in outdated(), "the old secret to need no restart")
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["env", "inline"]), timeout=20)
    wait_until(lambda: not outdated(), "the new containers to have the contents")


def by_hand_equals_ours(lab: Lab, names: list[str]) -> None:
    """Check that docker compose, used in the folder, acts on the daemon's containers as they are."""
    folder = lab.project.file.parent
    by_hand = lab.engine.environment | {"OCS_CONFIG_DIR": str(lab.site.folder)}
    lives = {name: lab.life(f"ocs-{name}") for name in names}

    def compose(*words: str) -> str:
        return subprocess.run(
            ["docker", "compose", *words], cwd=folder, env=by_hand, check=True, capture_output=True, text=True
        ).stdout

    compose("up", "--detach")
    assert {name: lab.life(f"ocs-{name}") for name in names} == lives
    shown: list[dict[str, Any]] = [
        json.loads(line) for line in compose("ps", "--format", "json").splitlines()
    ]
    assert {(row["Service"], row["State"]) for row in shown} == {(f"ocs-{n}", "running") for n in names}
    assert "HOME_OF_SITE=" + str(lab.site.folder) in compose("exec", "-T", "ocs-env", "env")
