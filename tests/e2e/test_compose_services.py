"""End-to-end tests of compose services: start, stop and status."""

from __future__ import annotations

import socket
from pathlib import Path

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.lab import DOWN, START_AT, UP, Lab, all_up, entry, is_gone, is_up, wait_for
from tests.e2e.test_supervision import InstanceWatch, agent, alive
from tests.waiting import wait_until

PASSIVE = pb.TARGET_STATE_PASSIVE
NO_IMAGE = "127.0.0.1:9/no-such:1"  # no registry listens there
PORT_IN_USE = ("address already in use", "port is already allocated")


def restarted(instance: pb.ManagedInstance) -> bool:
    return is_up(instance) and instance.restart_count > 0


def started(call: str) -> list[str]:
    """Return the services named in a call of `up`."""
    return [word for word in call.split() if not word.startswith("--")]


# --- one daemon for both kinds


def test_one_daemon_manages_host_and_docker_instances(lab: Lab) -> None:
    lab.write({"ocs-b": {}, "ocs-down": {}, "db": {}})
    lab.site.write([agent("a"), entry("b"), entry("down", "docker/down")])
    daemon = lab.serve()
    up = all_up(daemon, "b")["b"]
    daemon.wait_for("a", UP)
    assert daemon.instance("down").next_action == DOWN
    db = daemon.instance("db")
    assert (db.next_action, db.target_state, db.full_name) == (DOWN, PASSIVE, "[docker]:db")
    assert db.passive_tracking
    assert db.management == pb.MANAGEMENT_DOCKER
    assert (up.agent_class, up.full_name) == ("Test[d]", "Test:b")
    assert not up.passive_tracking
    service = up.compose_service
    assert service.compose_file == str(lab.project.file)
    assert (service.service, service.project, service.image_tag) == ("ocs-b", lab.project.name, lab.image)
    assert (service.container_id, service.container_found, service.running) == (*lab.ids("ocs-b"), True, True)
    assert (
        service.running_image
        == service.image_id
        == lab.engine.docker("inspect", "--format", "{{.Id}}", lab.image)
    )
    assert (service.replicas, service.running_replicas, service.status) == (1, 1, "running")
    assert service.container_name == f"{lab.project.name}-ocs-b-1"
    assert alive(service.pid)
    assert db.compose_service.exit_code == 127
    assert db.compose_service.image_id == service.image_id

    daemon.update(a="down", b="down", down="up")
    wait_for(daemon, "b", is_gone)
    daemon.wait_for("a", DOWN)
    all_up(daemon, "down")
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["down"]), timeout=20)
    wait_for(daemon, "down", lambda i: is_up(i) and i.compose_service.container_id != service.container_id)


# --- starts and stops


def test_up_for_all_is_one_call_of_compose(lab: Lab) -> None:
    names = [f"s{number}" for number in range(8)]
    lab.write({f"ocs-{name}": {} for name in names})
    lab.site.write([entry(name, "docker/down") for name in names])
    daemon = lab.serve()
    daemon.update(all="up")
    all_up(daemon, *names)
    (up,) = lab.calls("up")
    assert started(up) == [f"ocs-{name}" for name in names]
    daemon.update(all="down")
    for name in names:
        wait_for(daemon, name, is_gone)
    assert len(lab.calls("rm")) == 1


def test_services_that_start_with_the_daemon_are_one_call_of_compose_per_file(lab: Lab) -> None:
    other = lab.new_project({"ocs-c": {}, "ocs-d": {}})
    lab.write({"ocs-a": {}, "ocs-b": {}})
    lab.site.write([entry(name) for name in "abcd"])
    daemon = lab.serve(files=f"{lab.project.file},{other.file}")
    all_up(daemon, *"abcd")
    assert sorted(map(started, lab.calls("up"))) == [["ocs-a", "ocs-b"], ["ocs-c", "ocs-d"]]


def test_a_killed_container_is_restarted_and_watchers_are_notified(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}})
    # A backoff long enough for the watcher to get the state in between.
    lab.site.write([entry("a", restart={"backoff": {"initial": 3}}), entry("b")])
    daemon = lab.serve()
    before = all_up(daemon, "a", "b")
    other = lab.life("ocs-b")
    watch = InstanceWatch(daemon, "a")
    lab.engine.docker("kill", before["a"].compose_service.container_id)
    again = wait_for(daemon, "a", restarted)
    assert again.restart_count == 1
    assert again.last_exit.code == 137
    assert not again.last_exit.expected
    assert again.stability < 1.0
    updates = watch.close()
    assert any(i.next_action == START_AT and i.last_exit.code == 137 for i in updates)
    kinds = [event.kind for event in daemon.events("a")]
    assert kinds[kinds.index(pb.EVENT_KIND_EXIT) :] == [
        pb.EVENT_KIND_EXIT, pb.EVENT_KIND_LAUNCH, pb.EVENT_KIND_UP
    ]  # fmt: skip
    assert lab.life("ocs-b") == other


def test_a_failing_service_does_not_block_the_others(lab: Lab) -> None:
    lab.write({f"ocs-{name}": {} for name in "abcd"} | {"ocs-bad": {"image": NO_IMAGE}})
    lab.site.write([entry(name) for name in "abcd"] + [entry("bad")])
    with lab.following("start") as started:
        daemon = lab.serve()
        all_up(daemon, *"abcd")
        bad = wait_for(daemon, "bad", lambda i: i.consecutive_failures >= 2 and i.next_action == START_AT)
        ids = {lab.life(f"ocs-{name}")[0] for name in "abcd"}
        wait_until(lambda: started() == ids, "the start of these containers alone")
    assert NO_IMAGE in bad.message
    assert bad.compose_service.image_id == "unknown"
    failures = [e for e in daemon.events("bad") if e.kind == pb.EVENT_KIND_START_FAILED]
    assert NO_IMAGE in failures[0].message
    for name in "abcd":
        assert daemon.instance(name).restart_count == 0
        assert len(lab.ids(f"ocs-{name}")) == 1
    daemon.update(bad="down")
    wait_for(daemon, "bad", is_gone)


def failed(instance: pb.ManagedInstance) -> bool:
    """Return whether the last attempt failed.

    The message then holds the reason until the next attempt.
    """
    return instance.consecutive_failures > 0 and instance.next_action == START_AT


def test_an_instance_shows_why_its_service_does_not_run(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab.write(
            {
                "ocs-good": {},
                "ocs-port": {"network_mode": None, "ports": [f"127.0.0.1:{port}:80"]},
                "ocs-ends": {"command": ["sh", "-c", "exit 3"]},
                "ocs-command": {"command": ["/nonexistent/agent"]},
            }
        )
        lab.site.write([entry(name) for name in ("good", "port", "ends", "command", "nosuch")])
        daemon = lab.serve()
        all_up(daemon, "good")
        message = wait_for(daemon, "port", failed).message
        assert str(port) in message
        assert any(words in message for words in PORT_IN_USE), message
        assert "/nonexistent/agent" in wait_for(daemon, "command", failed).message
        ends = wait_for(daemon, "ends", lambda i: i.consecutive_failures >= 3 and i.next_action == START_AT)
        assert (ends.last_exit.code, ends.compose_service.exit_code) == (3, 3)
        assert (ends.reason, ends.stability) == ("BackingOff", 0.0)
        assert "code 3" in ends.message
        nosuch = daemon.instance("nosuch")
        assert (nosuch.agent_class, nosuch.operable) == ("Test[d?]", False)
        assert nosuch.next_action == pb.NEXT_ACTION_UNKNOWN
        assert "no service 'ocs-nosuch'" in nosuch.message
    all_up(daemon, "port")
    assert daemon.instance("good").restart_count == 0


def test_a_slowly_stopping_container_is_down_only_when_removed(lab: Lab) -> None:
    lab.write({"ocs-a": {"command": ["sleep", "100000"], "stop_grace_period": "1s"}})  # pid 1 ignores TERM
    lab.site.write([entry("a")])
    daemon = lab.serve()
    pid = all_up(daemon, "a")["a"].compose_service.pid
    daemon.update(a="down")
    wait_for(daemon, "a", lambda i: i.next_action == pb.NEXT_ACTION_WAIT_DEAD)
    assert alive(pid)
    wait_for(daemon, "a", is_gone)
    assert not alive(pid)


def test_a_target_that_changes_back_and_forth_is_followed(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}})
    lab.site.write([entry("a"), entry("b")])
    daemon = lab.serve()
    all_up(daemon, "a", "b")
    for _ in range(5):
        daemon.update(all="down")
        daemon.update(all="up")
    wait_for(daemon, "a", lambda i: i.observed_generation == i.generation)
    all_up(daemon, "a", "b")
    for _ in range(5):
        daemon.update(all="up")
        daemon.update(all="down")
    for name in "ab":
        wait_for(daemon, name, lambda i: is_gone(i) and i.observed_generation == i.generation)
    assert lab.project.containers() == []


# --- manual changes


def test_manual_changes_to_an_enforced_service_are_corrected(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-down": {}})
    lab.site.write([entry("a"), entry("down", "docker/down")])
    daemon = lab.serve()
    all_up(daemon, "a")

    lab.project.compose("stop", "ocs-a")
    wait_for(daemon, "a", lambda i: i.restart_count == 1 and is_up(i))
    lab.project.compose("rm", "--stop", "--force", "ocs-a")
    # The daemon may correct the service twice, because it may also act between stop and removal.
    wait_for(daemon, "a", lambda i: i.restart_count >= 2 and is_up(i))
    lab.project.compose("up", "--detach", "ocs-down")
    wait_until(lambda: [e for e in daemon.events("down") if e.kind == pb.EVENT_KIND_DOWN], "it to go down")
    wait_for(daemon, "down", is_gone)
    assert daemon.instance("down").stability == 1.0

    first = lab.life("ocs-a")
    lab.project.compose("up", "--detach", "--force-recreate", "ocs-a")
    wait_for(daemon, "a", lambda i: is_up(i) and i.compose_service.container_id != first[0])
    assert len(lab.lives("ocs-a")) == 1


def test_a_passive_service_is_shown_and_left_alone(lab: Lab) -> None:
    lab.write({"db": {}})
    lab.site.write([])
    daemon = lab.serve()
    lab.project.compose("up", "--detach", "db")
    db = all_up(daemon, "db")["db"]
    assert (db.target_state, db.compose_service.container_id) == (PASSIVE, *lab.ids("db"))
    lab.engine.docker("pause", *lab.ids("db"))
    wait_for(daemon, "db", lambda i: i.compose_service.status == "paused")
    lab.engine.docker("unpause", *lab.ids("db"))
    lab.project.compose("kill", "db")
    killed = wait_for(daemon, "db", lambda i: i.next_action == DOWN)
    assert (killed.compose_service.exit_code, killed.last_exit.code) == (137, 137)
    assert killed.compose_service.container_found
    assert killed.stability == 1.0
    lab.project.compose("rm", "--force", "db")
    gone = wait_for(daemon, "db", is_gone)
    assert gone.compose_service.exit_code == 127
    assert lab.calls("up") == lab.calls("rm") == []


def test_a_passive_service_is_brought_up_and_down_once_and_not_enforced(lab: Lab) -> None:
    lab.write({"db": {}})
    lab.site.write([])
    daemon = lab.serve()
    daemon.update(db="up")
    up = wait_for(daemon, "db", lambda i: is_up(i) and i.target_state == PASSIVE)
    lab.engine.docker("kill", up.compose_service.container_id)
    down = wait_for(daemon, "db", lambda i: i.next_action == DOWN)
    assert down.last_exit.code == 137
    lab.project.compose("start", "db")
    all_up(daemon, "db")
    daemon.update(db="down")
    wait_for(daemon, "db", lambda i: is_gone(i) and i.target_state == PASSIVE)
    assert len(lab.calls("up")) == 1


def test_a_passive_service_that_cannot_start_is_tried_once(lab: Lab) -> None:
    lab.write({"db": {"image": NO_IMAGE}})
    lab.site.write([])
    daemon = lab.serve()
    daemon.update(db="up")
    db = wait_for(daemon, "db", lambda i: i.target_state == PASSIVE and i.next_action == DOWN)
    assert NO_IMAGE in db.message
    assert [e.kind for e in daemon.events("db")].count(pb.EVENT_KIND_START_FAILED) == 1


# --- what compose users expect


def test_only_the_lost_one_of_three_replicas_is_restarted(lab: Lab) -> None:
    lab.write({"ocs-a": {"deploy": {"replicas": 3}}, "ocs-b": {"scale": 2}})
    lab.site.write([entry("a"), entry("b")])
    daemon = lab.serve()
    up = all_up(daemon, "a", "b")
    assert (up["a"].compose_service.replicas, up["a"].compose_service.running_replicas) == (3, 3)
    assert (up["b"].compose_service.replicas, up["b"].compose_service.running_replicas) == (2, 2)
    before = lab.lives("ocs-a")
    assert len(before) == 3
    victim = sorted(before)[1]
    lab.engine.docker("kill", victim[0])
    wait_for(daemon, "a", lambda i: restarted(i) and i.compose_service.running_replicas == 3)
    after = lab.lives("ocs-a")
    assert len(after) == 3
    assert len(before & after) == 2
    assert victim not in after
    assert daemon.instance("a").last_exit.code == 137
    daemon.update(a="down")
    wait_for(daemon, "a", is_gone)
    assert lab.ids("ocs-a") == []


def test_a_fixed_project_name_and_container_name_are_known(lab: Lab) -> None:
    name = f"{lab.project.name}-fixed"
    lab.project = lab.new_project({"ocs-a": {"container_name": f"{name}-agent"}}, name=name)
    lab.site.write([entry("a")])
    daemon = lab.serve()
    service = all_up(daemon, "a")["a"].compose_service
    assert (service.project, service.container_name) == (name, f"{name}-agent")
    lab.engine.docker("kill", f"{name}-agent")
    wait_for(daemon, "a", restarted)


def test_dependencies_start_with_the_service_and_running_ones_are_left_as_they_are(lab: Lab) -> None:
    services = {"ocs-a": {"depends_on": ["db"]}, "db": {}}
    lab.write(services)
    lab.site.write([entry("a", "docker/down")])
    daemon = lab.serve()
    daemon.update(a="up")
    all_up(daemon, "a", "db")
    assert daemon.instance("db").target_state == PASSIVE
    db = lab.life("db")
    daemon.update(a="down")
    wait_for(daemon, "a", is_gone)
    assert lab.life("db") == db

    lab.write(services | {"db": {"environment": {"CHANGED": "1"}}})
    wait_for(daemon, "db", lambda i: i.restart_required)
    daemon.update(a="up")
    all_up(daemon, "a")
    assert lab.life("db") == db


def test_a_service_of_an_inactive_profile_is_tracked_only_when_the_site_config_names_it(lab: Lab) -> None:
    lab.write({"ocs-a": {"profiles": ["lab"]}, "tool": {"profiles": ["debug"]}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    all_up(daemon, "a")
    assert set(daemon.instances()) == {"a"}


def test_a_built_service_is_built_and_run(lab: Lab) -> None:
    (lab.project.file.parent / "Dockerfile").write_text(f"FROM {lab.image}\nENV BUILT=1\n")
    lab.write({"ocs-a": {"image": None, "build": {"context": ".", "network": "none"}}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    try:
        service = all_up(daemon, "a")["a"].compose_service
        assert service.image_tag == f"{lab.project.name}-ocs-a"
        assert service.running_image == service.image_id
    finally:
        daemon.update(a="down")
        wait_for(daemon, "a", is_gone)
        lab.engine.docker("rmi", "--force", f"{lab.project.name}-ocs-a")


def test_a_service_with_a_restart_policy_of_its_own_is_not_started_twice(lab: Lab) -> None:
    # The engine restarts the container itself, so the daemon must not start the service.
    lab.write({"ocs-a": {"restart": "always", "command": ["sh", "-c", "sleep 0.3; exit 4"]}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    wait_for(daemon, "a", lambda i: i.last_exit.code == 4)
    wait_until(lambda: len(lab.events("start")) >= 3, "three starts")
    assert len(lab.ids("ocs-a")) == 1
    daemon.update(a="down")
    wait_for(daemon, "a", is_gone)


# --- Compose v1


def test_compose_v1_manages_services(lab: Lab, compose_v1: Path) -> None:
    lab.use_program(compose_v1)
    lab.project.write(f"version: '2.4'\n{_yaml(lab)}")
    lab.site.write([entry("a"), entry("b", "docker/down")])
    daemon = lab.serve()
    first = all_up(daemon, "a")["a"]
    assert first.compose_service.container_name == f"{lab.project.name}_ocs-a_1"
    assert not first.restart_required
    lab.engine.docker("kill", first.compose_service.container_id)
    wait_for(daemon, "a", restarted)
    daemon.update(b="up", a="down")
    all_up(daemon, "b")
    wait_for(daemon, "a", is_gone)


def _yaml(lab: Lab) -> str:
    return "services:\n" + "".join(
        f"  ocs-{name}: {{image: '{lab.image}', network_mode: none}}\n" for name in "ab"
    )
