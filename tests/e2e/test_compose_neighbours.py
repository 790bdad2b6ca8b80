"""End-to-end tests of compose services beside others: nobody waits for a stranger, or is touched by one."""

from __future__ import annotations

from functools import partial
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon
from tests.e2e.lab import DOWN, UP, Lab, all_up, entry, is_gone, is_up, wait_for
from tests.waiting import wait_until

SICK = {"test": ["CMD", "false"], "interval": "1s", "retries": 1000}
GRACE = {"stop_grace_period": "1s"}


def restarted(instance: pb.ManagedInstance) -> bool:
    return is_up(instance) and instance.restart_count > 0


def reasons(daemon: Daemon, instance_id: str) -> list[str]:
    """Return the reasons of the instance's events so far."""
    request = pb.ListEventsRequest(instance_ids=[instance_id])
    return [event.reason for event in daemon.stub.ListEvents(request, timeout=20).events]


def test_starts_that_wait_for_a_dependency_hold_up_no_other_service(lab: Lab) -> None:
    healthy = {"ocs-h": {"condition": "service_healthy"}}
    services: dict[str, Any] = {"ocs-b": GRACE, "ocs-h": {"healthcheck": SICK, **GRACE}, "ocs-n": GRACE}
    lab.write({**services, "ocs-d": {"depends_on": healthy, **GRACE}})
    lab.site.write([entry(name, "docker/down") for name in "bhdn"])
    daemon = lab.serve()
    daemon.update(b="up", h="up", d="up")
    all_up(daemon, "b")
    waiting = wait_for(daemon, "d", lambda i: "ocs-h to be healthy" in i.message)
    assert waiting.message.startswith("starting; waits for ocs-h to be healthy")
    lab.engine.docker("kill", *lab.ids("ocs-b"))
    wait_for(daemon, "b", restarted)
    daemon.update(n="up")  # needs a new container
    all_up(daemon, "n")
    daemon.update(n="down")
    wait_for(daemon, "n", is_gone)
    daemon.update(d="down")
    daemon.wait_for("d", DOWN)
    assert lab.ids("ocs-d") == []
    assert daemon.instance("b").next_action == UP
    daemon.update(h="down")
    daemon.wait_for("h", DOWN)
    daemon.update(d="up")
    wait_for(daemon, "d", lambda i: i.message == "waiting for h to be up (its target is down)")
    assert lab.ids("ocs-h") == []


def test_a_crash_recreates_no_other_service(lab: Lab) -> None:
    def write(value: str) -> None:
        both = {"environment": {"A": value}, **GRACE}
        lab.write({"ocs-db": both, "ocs-app": {"depends_on": ["ocs-db"], **both}})

    write("1")
    lab.site.write([entry("db"), entry("app")])
    daemon = lab.serve()
    all_up(daemon, "db", "app")
    db = lab.life("ocs-db")
    write("2")
    for name in ("db", "app"):
        wait_for(daemon, name, lambda i: i.restart_required)
    lab.engine.docker("kill", *lab.ids("ocs-app"))
    wait_for(daemon, "app", restarted)
    assert lab.life("ocs-db") == db
    assert daemon.instance("db").restart_required


def test_a_container_that_cannot_start_again_is_replaced_and_down_removes_what_is_left(lab: Lab) -> None:
    lab.write({"a": {"network_mode": None, **GRACE}, "made": {}})
    lab.project.compose("up", "--detach", "a")
    lab.project.compose("up", "--no-start", "made")
    (old,) = lab.ids("a")
    lab.project.compose("stop", "a")
    lab.engine.docker("network", "rm", f"{lab.project.name}_default")
    lab.site.write([])
    daemon = lab.serve()
    daemon.wait_for("a", DOWN)
    daemon.update(a="up")
    wait_for(daemon, "a", is_up)
    assert lab.ids("a") != [old]
    assert "Renewed" in reasons(daemon, "a")
    daemon.update(made="down")
    wait_until(lambda: lab.ids("made") == [], "the container that never ran is gone")
    lab.project.compose("stop", "a")
    daemon.wait_for("a", DOWN)
    daemon.update(a="down")
    wait_until(lambda: lab.ids("a") == [], "the ended container is gone")


def test_users_of_the_namespaces_of_a_service_restart_with_it(lab: Lab) -> None:
    users: dict[str, dict[str, Any]] = {
        "ocs-net": {"network_mode": "service:ocs-x"},
        "ocs-vol": {"volumes_from": ["ocs-x:ro"]},
        "ocs-dep": {"depends_on": {"ocs-x": {"condition": "service_started", "restart": True}}},
    }
    services: dict[str, dict[str, Any]] = {
        "ocs-x": {"volumes": ["/data"]},
        "ocs-other": {"depends_on": ["ocs-x"]},
        **users,
    }
    lab.write({name: {**GRACE, **settings} for name, settings in services.items()})
    names = [name.removeprefix("ocs-") for name in services]
    lab.site.write([entry(name) for name in names])
    daemon = lab.serve()
    all_up(daemon, *names)
    assert not any(daemon.instance(name).restart_required for name in names)
    before = {name: lab.life(name) for name in services}
    lab.engine.docker("kill", *lab.ids("ocs-x"))
    wait_for(daemon, "x", restarted)

    def has_restarted(name: str) -> bool:
        lives = lab.lives(name)
        return bool(lives) and before[name] not in lives

    for name in users:
        wait_until(partial(has_restarted, name), f"{name} restarts with x")
        assert "RestartedWith" in reasons(daemon, name.removeprefix("ocs-"))
    all_up(daemon, *names)
    assert lab.life("ocs-other") == before["ocs-other"]
    assert not any(daemon.instance(name).restart_required for name in names)
