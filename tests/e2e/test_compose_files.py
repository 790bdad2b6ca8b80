"""End-to-end tests of changes of compose files and of the site config."""

from __future__ import annotations

import json
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import Registry, unique_name
from tests.e2e.daemon import Daemon
from tests.e2e.lab import (
    DOWN,
    UNKNOWN,
    UP,
    Lab,
    all_up,
    entry,
    is_enforced,
    is_gone,
    is_up,
    status,
    wait_for,
)  # fmt: skip
from tests.e2e.test_supervision import agent
from tests.waiting import wait_until

PASSIVE = pb.TARGET_STATE_PASSIVE


def parsed(daemon: Daemon, lab: Lab) -> pb.ParseStatus:
    """Return the latest result of reading the lab's compose file."""
    return status(daemon).config_parse_status[str(lab.project.file)]


def class_of(daemon: Daemon, instance_id: str) -> str | None:
    """Return the agent class of an instance, or None if no such instance exists."""
    found = daemon.instances().get(instance_id)
    return found.agent_class if found is not None else None


def wait_for_class(daemon: Daemon, instance_id: str, agent_class: str | None) -> None:
    wait_until(lambda: class_of(daemon, instance_id) == agent_class, f"{instance_id} to be {agent_class}")


# --- services in the site config, or tracked passively


def test_a_running_service_changes_between_the_site_config_and_passive_tracking(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}})
    lab.site.write([])
    daemon = lab.serve()
    assert set(daemon.instances()) == {"ocs-a", "ocs-b"}
    daemon.update(**{"ocs-a": "up"})
    all_up(daemon, "ocs-a")
    before = lab.life("ocs-a")

    lab.site.write([entry("a"), entry("b")])
    daemon.reload()
    assert set(daemon.instances()) == {"a", "b"}
    a = all_up(daemon, "a")["a"]
    assert (a.target_state, a.agent_class) == (pb.TARGET_STATE_UP, "Test[d]")
    assert wait_for(daemon, "b", is_gone).target_state == pb.TARGET_STATE_DOWN  # unchanged
    lab.engine.docker("kill", before[0])
    wait_for(daemon, "a", lambda i: is_up(i) and i.restart_count)  # enforced from now on
    again = lab.life("ocs-a")

    lab.site.write([])
    daemon.reload()
    passive = all_up(daemon, "ocs-a")["ocs-a"]
    assert (passive.target_state, passive.agent_class) == (PASSIVE, "[docker]")
    assert set(daemon.instances()) == {"ocs-a", "ocs-b"}
    assert lab.life("ocs-a") == again
    lab.engine.docker("kill", again[0])
    wait_for(daemon, "ocs-a", lambda i: i.next_action == DOWN)
    assert len(lab.calls("up")) == 1  # the engine started the killed container again
    assert lab.calls("rm") == []


def test_a_change_of_management_ends_the_old_run_and_starts_a_new_run(lab: Lab) -> None:
    lab.write({"ocs-a": {}})
    lab.site.write([agent("a")])
    daemon = lab.serve()
    daemon.wait_for("a", UP)
    assert set(daemon.instances()) == {"a", "ocs-a"}
    lab.site.write([entry("a")])
    daemon.reload()
    wait_until(lambda: daemon.instance("a").management == pb.MANAGEMENT_DOCKER, "docker")
    all_up(daemon, "a")
    wait_until(lambda: not lab.site.processes(), "the process to be gone")
    assert set(daemon.instances()) == {"a"}
    lab.site.write([agent("a")])
    daemon.reload()
    wait_until(lambda: daemon.instance("a").management == pb.MANAGEMENT_HOST, "host")
    daemon.wait_for("a", UP)
    assert lab.lives("ocs-a") == set()
    assert len(lab.site.processes()) == 1


def test_a_service_is_taken_over_under_its_own_name(lab: Lab) -> None:
    lab.write({"a": {}})
    lab.site.write([])
    daemon = lab.serve("--docker-service-prefix", "")
    daemon.update(a="up")
    all_up(daemon, "a")
    before = lab.life("a")
    lab.site.write([entry("a")])
    daemon.reload()
    assert all_up(daemon, "a")["a"].target_state == pb.TARGET_STATE_UP
    is_enforced(daemon, lab, "a")
    again = lab.life("a")
    lab.site.write([])
    daemon.reload()
    assert all_up(daemon, "a")["a"].target_state == PASSIVE
    assert lab.life("a") == again != before


def test_a_change_of_class_starts_the_service_afresh(lab: Lab) -> None:
    lab.write({"ocs-a": {}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    all_up(daemon, "a")
    before = lab.life("ocs-a")
    lab.site.write([{**entry("a"), "agent-class": "Other"}])
    daemon.reload()
    wait_for(daemon, "a", lambda i: is_up(i) and i.agent_class == "Other[d]")
    assert lab.life("ocs-a")[0] != before[0]
    assert (len(lab.calls("rm")), len(lab.calls("up"))) == (1, 2)


# --- services that leave their file


def test_a_service_that_leaves_its_file_is_an_orphan_until_it_comes_back(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}, "db": {}})
    lab.site.write([entry("a"), entry("b")])
    daemon = lab.serve()
    all_up(daemon, "a", "b")
    daemon.update(db="up")
    all_up(daemon, "db")
    lives = {name: lab.life(name) for name in ("ocs-a", "ocs-b", "db")}

    lab.write({"ocs-b": {}})
    wait_for_class(daemon, "a", "Test[d?]")
    a = wait_for(daemon, "a", lambda i: i.next_action == UNKNOWN)
    assert not a.operable
    assert "no service 'ocs-a'" in a.message
    wait_for_class(daemon, "db", None)
    orphans = wait_until(lambda: status(daemon).orphans, "the orphans")
    assert {(o.service, o.container_id, o.running) for o in orphans.values()} == {
        ("ocs-a", lives["ocs-a"][0], True), ("db", lives["db"][0], True)
    }  # fmt: skip
    assert {orphan.compose_file for orphan in orphans.values()} == {str(lab.project.file)}

    lab.write({"ocs-a": {}, "ocs-b": {}, "db": {}})
    all_up(daemon, "a", "b", "db")
    assert class_of(daemon, "a") == "Test[d]"
    assert not status(daemon).orphans
    assert {name: lab.life(name) for name in lives} == lives
    assert daemon.instance("a").target_state == pb.TARGET_STATE_UP


def test_a_renamed_service_starts_and_only_its_old_container_is_removed_as_orphan(lab: Lab) -> None:
    lab.write({"ocs-a": {}, "ocs-b": {}})
    lab.site.write([entry("a"), entry("b"), entry("new")])
    daemon = lab.serve()
    all_up(daemon, "a", "b")
    old, other = lab.life("ocs-a"), lab.life("ocs-b")
    lab.write({"ocs-new": {}, "ocs-b": {}})
    all_up(daemon, "new")
    assert list(wait_until(lambda: status(daemon).orphans, "the orphan")) == [old[0]]
    assert lab.life("ocs-a") == old

    *_, last = daemon.stub.RemoveOrphans(pb.RemoveOrphansRequest(), timeout=30)
    assert (last.result.removed, last.result.failed) == (1, 0)
    assert lab.ids("ocs-a") == []
    wait_until(lambda: not status(daemon).orphans, "no orphans")
    assert lab.life("ocs-b") == other
    assert daemon.instance("new").restart_count == 0


# --- changed images and definitions


def test_a_new_tag_is_named_pulled_and_moved_to_by_a_restart(lab: Lab, registry: Registry) -> None:
    tag = f"{unique_name()}:2"
    lab.engine.import_image(tag, files={"/version": b"2"})
    reference = registry.push(lab.engine, tag)
    lab.write({"ocs-a": {}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    all_up(daemon, "a")
    before = lab.life("ocs-a")

    lab.write({"ocs-a": {"image": reference}})
    a = wait_for(daemon, "a", lambda i: i.restart_required)
    assert a.compose_service.image_id == "unknown"
    assert status(daemon).new_tags == {"a": reference}
    updates = list(daemon.stub.DockerPull(pb.DockerPullRequest(new_only=True), timeout=60))
    assert (updates[-1].result.pulled, updates[-1].result.failed) == (1, 0)
    wait_until(lambda: not status(daemon).new_tags, "no new tags")
    a = daemon.instance("a")
    assert a.restart_required
    assert a.compose_service.image_id != "unknown"
    assert lab.life("ocs-a") == before  # a pull restarts nothing

    daemon.stub.Restart(pb.RestartRequest(instance_ids=["a"]), timeout=20)
    a = wait_for(daemon, "a", lambda i: is_up(i) and not i.restart_required)
    assert a.compose_service.running_image == a.compose_service.image_id
    assert lab.life("ocs-a")[0] != before[0]
    daemon.update(a="down")
    wait_for(daemon, "a", is_gone)


def test_a_moved_tag_requires_a_restart(lab: Lab) -> None:
    tag = f"{unique_name()}:1"
    lab.engine.import_image(tag, files={"/version": b"1"})
    lab.write({"ocs-a": {"image": tag}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    assert not all_up(daemon, "a")["a"].restart_required
    before = lab.life("ocs-a")
    newest = lab.engine.import_image(tag, files={"/version": b"2"})
    a = wait_for(daemon, "a", lambda i: i.restart_required)
    assert a.compose_service.image_id == newest
    assert lab.life("ocs-a") == before
    lab.engine.docker("kill", before[0])  # any start uses the new image
    wait_for(daemon, "a", lambda i: is_up(i) and i.compose_service.running_image == newest)
    daemon.update(a="down")
    wait_for(daemon, "a", is_gone)


def _write(lab: Lab, name: str, text: str) -> None:
    file = lab.project.file.parent / name
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def test_a_changed_definition_requires_a_restart_of_its_service_alone(lab: Lab) -> None:
    def by_compose_file(value: str) -> None:
        lab.write(
            {
                "ocs-file": {"environment": {"VALUE": value}},
                "ocs-dotenv": {"environment": {"VALUE": "${FROM_DOT_ENV}"}},
                "ocs-extends": {"extends": {"file": "base.yaml", "service": "base"}},
            },
            include=["more.yaml"],
        )

    def by_dot_env(value: str) -> None:
        _write(lab, ".env", f"FROM_DOT_ENV={value}\n")

    def by_extended_file(value: str) -> None:
        _write(lab, "base.yaml", lab.text({"base": {"environment": {"VALUE": value}}}))

    def by_included_file(value: str) -> None:
        _write(lab, "more.yaml", lab.text({"ocs-include": {"environment": {"VALUE": value}}}))

    ways = {
        "file": by_compose_file,
        "dotenv": by_dot_env,
        "extends": by_extended_file,
        "include": by_included_file,
    }
    for change in ways.values():
        change("1")
    lab.site.write([entry(name) for name in ways])
    daemon = lab.serve()
    up = all_up(daemon, *ways)
    assert not any(instance.restart_required for instance in up.values())
    before = {name: lab.life(f"ocs-{name}") for name in ways}
    for name, change in ways.items():
        change("2")
        wait_for(daemon, name, lambda i: i.restart_required and i.compose_service.definition_changed)
        assert [i.instance_id for i in daemon.instances().values() if i.restart_required] == [name]
        change("1")
        wait_for(daemon, name, lambda i: not i.restart_required)
    assert {name: lab.life(f"ocs-{name}") for name in ways} == before

    by_included_file("2")
    wait_for(daemon, "include", lambda i: i.restart_required)
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["include"]), timeout=20)
    wait_for(daemon, "include", lambda i: is_up(i) and not i.restart_required)
    environment = lab.engine.api.inspect_container(lab.life("ocs-include")[0])["Config"]["Env"]
    assert "VALUE=2" in environment
    assert len(lab.ids("ocs-include")) == 1
    assert lab.life("ocs-file") == before["file"]


def test_a_changed_env_file_is_noticed(lab: Lab) -> None:
    _write(lab, "agent.env", "VALUE=1\n")
    lab.write({"ocs-a": {"env_file": ["agent.env"]}})
    lab.site.write([entry("a")])
    daemon = lab.serve()
    assert not all_up(daemon, "a")["a"].restart_required
    read = parsed(daemon, lab).time
    reads = len(lab.calls("config"))
    _write(lab, "agent.env", "VALUE=2\n")
    wait_until(lambda: len(lab.calls("config")) > reads, "the files to be read again")
    assert parsed(daemon, lab).time == read  # the project is unchanged
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["a"]), timeout=20)
    wait_for(daemon, "a", lambda i: is_up(i) and i.observed_generation == i.generation)
    assert "VALUE=2" in lab.engine.api.inspect_container(lab.life("ocs-a")[0])["Config"]["Env"]


# --- several files


def test_several_files_make_up_one_project(lab: Lab) -> None:
    lab.write({"ocs-a": {"environment": {"VALUE": "1"}}, "ocs-b": {}})
    over = lab.project.file.with_name("over.yaml")
    over.write_text(json.dumps({"services": {"ocs-a": {"environment": {"VALUE": "2"}}}}))
    lab.site.write([entry("a"), entry("b")])
    daemon = lab.serve(files=f"{lab.project.file}:{over}")
    all_up(daemon, "a", "b")
    assert "VALUE=2" in lab.engine.api.inspect_container(lab.life("ocs-a")[0])["Config"]["Env"]
    assert not daemon.instance("a").restart_required
    over.write_text(json.dumps({"services": {"ocs-a": {"environment": {"VALUE": "3"}}}}))
    wait_for(daemon, "a", lambda i: i.restart_required)
    assert not status(daemon).orphans
    assert set(status(daemon).config_parse_status) == {"[SCF]", str(lab.project.file)}


def test_two_files_in_one_folder_are_no_orphans_of_each_other(lab: Lab) -> None:
    lab.write({"ocs-a": {}})
    second = lab.project.file.with_name("second.yaml")
    second.write_text(lab.text({"ocs-b": {}}))
    lab.site.write([entry("a"), entry("b")])
    daemon = lab.serve(files=f"{lab.project.file},{second}")
    up = all_up(daemon, "a", "b")
    assert up["a"].compose_service.project == up["b"].compose_service.project
    assert not status(daemon).orphans
    lives = lab.life("ocs-a"), lab.life("ocs-b")
    daemon.update(a="down")
    wait_for(daemon, "a", is_gone)
    daemon.update(a="up")
    all_up(daemon, "a")
    assert lab.life("ocs-b") == lives[1]
    second.write_text(lab.text({}))
    orphans = wait_until(lambda: status(daemon).orphans, "the orphan")
    assert [(o.service, o.compose_file) for o in orphans.values()] == [("ocs-b", str(second))]


# --- unusable files


def test_an_unusable_file_is_reported_and_changes_no_service(lab: Lab) -> None:
    lab.write({"ocs-a": {}})
    other = lab.new_project({"ocs-c": {}})
    lab.site.write([entry("a"), entry("c"), agent("p")])
    daemon = lab.serve(files=f"{lab.project.file},{other.file}")
    all_up(daemon, "a", "c")
    assert parsed(daemon, lab).success
    before = lab.life("ocs-a")

    lab.project.write("services: [")
    wait_until(lambda: "yaml" in parsed(daemon, lab).message, "a message about the broken YAML")
    assert not parsed(daemon, lab).success
    lab.project.write(json.dumps({"services": {"ocs-a": {"image": lab.image, "no_such_key": 1}}}))
    wait_until(lambda: "no_such_key" in parsed(daemon, lab).message, "a message about the unknown key")
    assert status(daemon).config_parse_status[str(other.file)].success
    is_enforced(daemon, lab, "c")
    assert daemon.instance("a").next_action == UP
    assert lab.life("ocs-a") == before
    lab.write({"ocs-a": {}})
    wait_until(lambda: parsed(daemon, lab).success, "the corrected file to be read")
    assert parsed(daemon, lab).message == ""
    assert lab.life("ocs-a") == before

    lab.project.file.unlink()
    wait_until(lambda: "there is no file" in parsed(daemon, lab).message, "a message about the missing file")
    assert daemon.instance("a").next_action == UP


def test_a_missing_or_broken_file_is_read_once_usable(lab: Lab) -> None:
    missing = lab.project.file.parent / "later" / "compose.yaml"
    lab.project.write("services: [")
    lab.site.write([entry("a"), entry("b"), agent("p")])
    daemon = lab.serve(files=f"{missing},{lab.project.file}")
    daemon.wait_for("p", UP)
    a = daemon.instance("a")
    assert (a.agent_class, a.operable, a.next_action) == ("Test[d?]", False, UNKNOWN)
    assert str(missing) in a.message
    read = status(daemon).config_parse_status
    assert "there is no file" in read[str(missing)].message
    assert not read[str(missing)].success
    assert not read[str(lab.project.file)].success
    assert read["[SCF]"].success

    lab.write({"ocs-b": {}})
    all_up(daemon, "b")
    missing.parent.mkdir()
    missing.write_text(lab.text({"ocs-a": {}}, name=lab.project.name))
    all_up(daemon, "a")
    assert all(each.success for each in status(daemon).config_parse_status.values())


def test_a_missing_compose_program_is_reported_and_host_instances_run(lab: Lab) -> None:
    lab.write({"ocs-a": {}})
    lab.site.write([entry("a"), agent("p")])
    lab.compose_bin = lab.site.folder / "nowhere"
    daemon = lab.serve()
    daemon.wait_for("p", UP)
    assert "--docker-compose-bin" in parsed(daemon, lab).message
    assert class_of(daemon, "a") == "Test[d?]"


def test_the_arguments_of_the_hostmanager_entry_name_compose_files_and_prefix(lab: Lab) -> None:
    lab.write({"lab-a": {}})
    arguments = ["--docker-compose", str(lab.project.file), "--docker-service-prefix", "lab-"]
    manager: dict[str, Any] = {
        "instance-id": "hm", "agent-class": "HostManager", "arguments": arguments, "manage": "no"
    }  # fmt: skip
    lab.site.write([manager, entry("a")])
    daemon = lab.site.start()
    assert all_up(daemon, "a")["a"].compose_service.service == "lab-a"
