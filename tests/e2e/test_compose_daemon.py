"""End-to-end tests of compose services across lives of the daemon."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import unique_name
from tests.e2e.daemon import PATIENCE, Daemon, Site
from tests.e2e.lab import DOWN, UNKNOWN, UP, Lab, all_up, entry, is_enforced, is_gone, is_up, status, wait_for
from tests.e2e.test_supervision import agent
from tests.waiting import wait_until

UP_TARGET, DOWN_TARGET = pb.TARGET_STATE_UP, pb.TARGET_STATE_DOWN
PASSIVE = pb.TARGET_STATE_PASSIVE


def die(daemon: Daemon, *, dockers: bool = False, processes: bool = False) -> None:
    daemon.stub.Die(pb.DieRequest(disown_dockers=dockers, disown_processes=processes), timeout=20)
    assert daemon.process.wait(PATIENCE) == 0


# --- the daemon starts


def test_running_services_are_taken_over_without_a_restart(lab: Lab) -> None:
    tag = f"{unique_name()}:1"
    lab.engine.import_image(tag, files={"/version": b"1"})
    lab.write({"ocs-same": {}, "ocs-other": {"image": tag}, "ocs-changed": {}, "ocs-down": {}, "db": {}})
    lab.project.compose("up", "--detach")
    kept = ["ocs-same", "ocs-other", "ocs-changed", "db"]
    before = {name: lab.life(name) for name in kept}
    lab.engine.import_image(tag, files={"/version": b"2"})
    lab.write(
        {"ocs-same": {}, "ocs-other": {"image": tag}, "ocs-changed": {"environment": {"VALUE": "2"}},
         "ocs-down": {}, "db": {}}
    )  # fmt: skip
    lab.site.write([entry("same"), entry("other"), entry("changed"), entry("down", "docker/down")])
    daemon = lab.serve()
    wait_for(daemon, "down", is_gone)  # the daemon stops a container with target down
    up = all_up(daemon, "same", "other", "changed", "db")
    assert {name: lab.life(name) for name in kept} == before
    assert not up["same"].restart_required
    assert up["other"].restart_required
    assert up["changed"].restart_required
    assert up["changed"].compose_service.definition_changed
    assert lab.calls("up") == []
    started = up["same"].start_time.ToDatetime().isoformat(timespec="milliseconds")
    assert before["ocs-same"][1].startswith(started)
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["other"]), timeout=20)
    wait_for(daemon, "other", lambda i: is_up(i) and not i.restart_required)
    daemon.update(other="down")
    wait_for(daemon, "other", is_gone)


# --- the daemon ends


def test_a_daemon_that_ends_takes_enforced_services_down_and_leaves_passive_ones(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}, "db": {}})
    lab.site.write([entry("a"), entry("b"), agent("p")])
    daemon = lab.serve()
    daemon.update(db="up")
    all_up(daemon, "a", "b", "db")
    daemon.wait_for("p", UP)
    db = lab.life("db")
    assert daemon.end() == 0
    assert lab.project.containers() == [db[0]]
    assert lab.life("db") == db
    assert not lab.site.processes()
    assert len(lab.calls("rm")) == 1


def test_disowned_services_go_on_and_the_next_daemon_enforces_them(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-off": {}, "ocs-down": {}, "db": {}})
    lab.site.write([entry("a"), entry("off"), entry("down", "docker/down"), agent("p")])
    first = lab.serve()
    first.update(off="down", down="up", db="up")
    all_up(first, "a", "down", "db")
    wait_for(first, "off", is_gone)
    process = first.wait_for("p", UP).process.pid
    before = {name: lab.life(name) for name in ("ocs-a", "ocs-down", "db")}
    removals = lab.calls("rm")

    die(first, dockers=True)
    assert {name: lab.life(name) for name in before} == before
    assert not lab.site.processes()  # the daemon stopped its host agents

    second = lab.serve()
    all_up(second, "a", "down", "db")
    assert second.wait_for("p", UP).process.pid != process
    assert {name: lab.life(name) for name in before} == before
    targets = {i.instance_id: i.target_state for i in second.instances().values()}
    assert targets == {"a": UP_TARGET, "off": DOWN_TARGET, "down": UP_TARGET, "db": PASSIVE, "p": UP_TARGET}
    assert second.instance("off").next_action == DOWN
    is_enforced(second, lab, "a")
    assert lab.calls("rm") == removals


def test_disowned_services_and_processes_run_on(lab: Lab) -> None:
    lab.write({"ocs-a": {}})
    lab.site.write([entry("a"), agent("p")])
    first = lab.serve()
    all_up(first, "a")
    process = first.wait_for("p", UP).process.pid
    before = lab.life("ocs-a")
    die(first, dockers=True, processes=True)
    assert lab.site.processes() == [process]
    second = lab.serve()
    all_up(second, "a")
    assert second.wait_for("p", UP).process.pid == process
    assert lab.life("ocs-a") == before
    is_enforced(second, lab, "a")


def test_the_successor_of_a_killed_daemon_restarts_no_service(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}, "ocs-c": {}, "db": {}})
    lab.site.write([entry("a"), entry("b"), entry("c", "docker/down")])
    first = lab.serve()
    first.update(c="up", b="down", db="up")
    all_up(first, "a", "c", "db")
    wait_for(first, "b", is_gone)
    before = {name: lab.life(name) for name in ("ocs-a", "ocs-c", "db")}
    calls = len(lab.calls("up"))
    first.end(signal.SIGKILL)
    lab.engine.docker("kill", before["db"][0])

    second = lab.serve()
    all_up(second, "a", "c")
    assert second.instance("c").target_state == UP_TARGET
    assert second.instance("b").target_state == DOWN_TARGET
    assert {name: lab.life(name) for name in ("ocs-a", "ocs-c")} == {
        name: before[name] for name in ("ocs-a", "ocs-c")
    }
    db = wait_for(second, "db", lambda i: i.next_action == DOWN)  # passive: left as found
    assert db.compose_service.exit_code == 137
    assert len(lab.calls("up")) == calls
    is_enforced(second, lab, "c")


def test_the_successor_of_a_daemon_killed_during_a_call_of_compose_completes_the_start(lab: Lab) -> None:
    names = [f"s{number}" for number in range(6)]
    lab.write({f"ocs-{name}": {} for name in names})
    lab.site.write([entry(name) for name in names])
    first = lab.serve()
    wait_until(lambda: lab.calls("up"), "the start of the call")
    first.end(signal.SIGKILL)
    second = lab.serve()
    all_up(second, *names)
    assert [len(lab.ids(f"ocs-{name}")) for name in names] == [1] * len(names)


# --- the manager is stopped


def test_a_stopped_manager_shows_services_and_leaves_them_alone(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "db": {}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    daemon.update(db="up")
    all_up(daemon, "a", "db")
    db = lab.life("db")
    daemon.stub.StopManager(pb.StopManagerRequest(), timeout=30)
    assert lab.lives("ocs-a") == set()
    assert lab.life("db") == db
    assert is_gone(daemon.instance("a"))
    assert is_up(daemon.instance("db"))
    calls = lab.calls("up"), lab.calls("rm")

    lab.project.compose("up", "--detach", "ocs-a")
    wait_for(daemon, "a", is_up)
    lab.engine.docker("kill", lab.life("ocs-a")[0])
    wait_for(daemon, "a", lambda i: i.next_action == DOWN and i.compose_service.exit_code == 137)
    lab.project.compose("start", "ocs-a")
    all_up(daemon, "a")
    before = lab.life("ocs-a")
    assert (lab.calls("up"), lab.calls("rm")) == calls

    daemon.stub.StartManager(pb.StartManagerRequest(), timeout=20)
    wait_for(daemon, "a", lambda i: is_up(i) and i.target_state == UP_TARGET)
    assert lab.life("ocs-a") == before
    is_enforced(daemon, lab, "a")


# --- no engine


@pytest.fixture
def missing_socket(lab: Lab) -> Path:
    """Return the socket of a missing engine, the address for the site's daemons."""
    socket = lab.site.folder / "docker.sock"
    lab.site.environ = lab.engine.environment | {"DOCKER_HOST": f"unix://{socket}"}
    return socket


def test_without_an_engine_services_are_unknown_and_host_instances_go_on(
    lab: Lab, missing_socket: Path
) -> None:
    lab.write({"ocs-a": {}, "db": {}})
    lab.site.write([entry("a"), entry("off", "docker/down"), agent("p")])
    daemon = lab.serve()
    daemon.wait_for("p", UP)
    a = wait_for(daemon, "a", lambda i: str(missing_socket) in i.message)
    assert (a.next_action, a.agent_class, a.target_state) == (UNKNOWN, "Test[d]", UP_TARGET)
    assert "cannot find a Docker Engine" in a.message
    assert daemon.instance("db").next_action == UNKNOWN
    read = status(daemon).config_parse_status
    assert not read[str(lab.project.file)].success
    assert str(missing_socket) in read[str(lab.project.file)].message
    assert read["[SCF]"].success

    daemon.update(db="up", p="down")
    daemon.wait_for("p", DOWN)
    missing_socket.symlink_to(lab.engine.host.removeprefix("unix://"))  # the engine appears
    all_up(daemon, "a", "db")
    assert status(daemon).config_parse_status[str(lab.project.file)].success
    assert daemon.instance("a").restart_count == 0


def test_a_daemon_ends_without_an_engine(lab: Lab, missing_socket: Path, site: Site) -> None:
    lab.write({"ocs-a": {}})
    lab.site.write([entry("a"), agent("p")])
    daemon = lab.serve()
    daemon.wait_for("p", UP)
    wait_for(daemon, "a", lambda i: str(missing_socket) in i.message)
    daemon.stub.StopManager(pb.StopManagerRequest(), timeout=PATIENCE)
    assert daemon.end() == 0
    assert not site.processes()
