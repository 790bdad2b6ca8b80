"""The changes of a new config, as operators read them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hostmanager_server.core import config_changes, config_plan, plan
from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.config_changes import ChangeKind, ConfigChanges, InstanceChange
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, new_instance
from hostmanager_server.core.secret_names import MASK
from hostmanager_server.core.spec import (
    EnvFile,
    Hook,
    HostSpec,
    HttpProbe,
    InstanceSpec,
    LogPolicy,
    Management,
    ProcessSpec,
    PullPolicy,
    ReadinessProbe,
    RestartPolicy,
    RestartWhen,
    ServiceContents,
    ServiceDependency,
    ServiceSpec,
    StartCondition,
    StopPolicy,
    Target,
)
from hostmanager_server.core.spec_differences import MAX_TEXT, differences

from tests.core.instances import with_fields
from tests.core.scripted_instance import PROCESS, make

NOW = Instant(1000.0, 1e9)
SPEC = InstanceSpec("a", "Agent", process=PROCESS)
SERVICE = ServiceSpec("p", ("/c.yaml",), "ocs-a", "image:1", config_hash="1")


def changes(instances: dict[str, Instance], *specs: InstanceSpec) -> ConfigChanges:
    return config_changes.changes_of(
        instances, config_plan.apply_config(instances, HostSpec("host", specs), NOW)
    )


def only(instances: dict[str, Instance], *specs: InstanceSpec) -> InstanceChange:
    (change,) = changes(instances, *specs).listed
    return change


def told(old: InstanceSpec, new: InstanceSpec) -> list[tuple[str, str, str]]:
    return [(change.key, change.before, change.after) for change in differences(old, new)]


def command(*words: str) -> InstanceSpec:
    return replace(SPEC, process=ProcessSpec(words))


# --- kinds


def test_an_unchanged_config_has_no_changes() -> None:
    assert changes({"a": make().up().instance}, SPEC) == ConfigChanges()


def test_a_new_instance_is_added_with_its_target() -> None:
    change = only({}, replace(SPEC, initial_target=Target.DOWN))
    assert (change.kind, change.target, change.stops) == (ChangeKind.ADDED, Target.DOWN, False)


def test_a_new_instance_that_cannot_start_says_why() -> None:
    assert only({}, replace(SPEC, process=None, problem="no command")).message == "no command"


def test_a_removed_instance_that_runs_is_stopped_and_says_since_when_it_runs() -> None:
    s = make().up()
    assert s.instance.observed.run is not None
    change = only({"a": s.instance})
    assert (change.kind, change.stops) == (ChangeKind.REMOVED, True)
    assert change.started == s.instance.observed.run.started


def test_a_removed_instance_that_is_down_or_being_stopped_already_stops_nothing() -> None:
    down = new_instance(SPEC, Target.DOWN)
    assert not only({"a": down}).stops
    stopping = plan.set_targets({"a": make().up().instance}, [plan.TargetChange("a", Target.DOWN)])
    change = only(stopping)
    assert (change.kind, change.stops) == (ChangeKind.REMOVED, False)


def test_a_removed_service_that_cannot_be_observed_counts_as_stopped() -> None:
    docker = replace(SPEC, management=Management.DOCKER, process=None, service=SERVICE)
    unobservable = with_fields(new_instance(docker), unobservable="the engine is away")
    change = only({"a": unobservable})
    assert (change.stops, change.started, change.message) == (True, None, "the engine is away")


def test_another_class_replaces_the_instance_and_stops_the_run() -> None:
    change = only({"a": make().up().instance}, replace(SPEC, agent_class="Other"))
    assert (change.kind, change.stops) == (ChangeKind.REPLACED, True)
    assert [key.key for key in change.keys] == ["agent-class"]
    assert not change.restart_required


def test_another_management_replaces_the_instance() -> None:
    docker = replace(SPEC, management=Management.DOCKER, process=None, service=SERVICE)
    change = only({"a": make().up().instance}, docker)
    assert change.kind is ChangeKind.REPLACED
    assert [(k.key, k.before, k.after) for k in change.keys] == [
        ("manage", "host/up", "docker/up"),
        ("command", "agent", ""),
        ("compose service", "", "ocs-a"),
    ]


def test_a_service_that_enters_the_site_config_keeps_running() -> None:
    unclaimed = InstanceSpec("ocs-a", UNCLAIMED, Management.DOCKER, Target.PASSIVE, service=SERVICE)
    docker = replace(SPEC, management=Management.DOCKER, process=None, service=SERVICE)
    result = changes({"ocs-a": new_instance(unclaimed)}, docker)
    assert [(c.instance_id, c.kind, c.stops) for c in result.listed] == [
        ("a", ChangeKind.ADDED, False),
        ("ocs-a", ChangeKind.REMOVED, False),
    ]
    assert "without a restart" in result.listed[0].message
    assert "no longer tracked" in result.listed[1].message
    same_name = replace(docker, instance_id="ocs-a")
    assert only({"ocs-a": new_instance(unclaimed)}, same_name).kind is ChangeKind.CHANGED


def test_a_retired_instance_that_is_back_is_new() -> None:
    retired = plan.retire(make().up().instance)
    change = only({"a": retired}, SPEC)
    assert (change.kind, change.stops) == (ChangeKind.ADDED, False)
    assert "back in the config" in change.message


def test_a_restart_is_required_only_when_the_run_differs() -> None:
    running = {"a": make().up().instance}
    assert only(running, command("agent", "-v")).restart_required
    assert not only(running, replace(SPEC, start_timeout=99.0)).restart_required
    assert not only({"a": new_instance(SPEC)}, command("agent", "-v")).restart_required


def test_changes_that_stop_come_first_and_the_number_listed_is_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config_changes, "MAX_CHANGES", 2)
    monkeypatch.setattr(config_changes, "MAX_KEYS", 1)
    running = make().up().instance
    tracked = {name: with_spec(running, name) for name in ("a", "y", "z")}
    result = changes(tracked, command("agent", "-v"), replace(SPEC, instance_id="b"))
    assert [change.instance_id for change in result.listed] == ["y", "z"]
    assert (result.more, result.stopping) == (2, 2)
    (change,) = changes({"a": running}, replace(command("other"), start_timeout=1.0, up_after=9.0)).listed
    assert (len(change.keys), change.more_keys) == (1, 2)


def with_spec(instance: Instance, instance_id: str) -> Instance:
    return replace(instance, spec=replace(instance.spec, instance_id=instance_id))


# --- differing settings


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("x --setpoint 4.2", "x --setpoint 4.3", [("--setpoint", "4.2", "4.3")]),
        ("x --setpoint=4.2 -v", "x --setpoint=4.3 -v", [("--setpoint", "4.2", "4.3")]),
        ("x -o -4", "x -o -5", [("-o", "-4", "-5")]),
        ("x --a 1 --b 2", "x --a 3 --b 4", [("--a", "1", "3"), ("--b", "2", "4")]),
        ("x 1 2", "x 3 4", [("arguments", "1", "3"), ("arguments", "2", "4")]),
        ("x", "x --verbose -n 3", [("arguments", "", "--verbose -n 3")]),
        ("x --a 1 --b 2", "x --b 2", [("arguments", "--a 1", "")]),
        ("x --a 1", "x --b 2", [("arguments", "--a 1", "--b 2")]),
        ("x -v", "y -v", [("command", "x", "y")]),
        ("x -v", "python -m y -v", [("command", "x", "python -m y")]),
        ("x --token abc", "x --token def", [("--token", MASK, MASK)]),
        ("x --token=abc", "x --token=def", [("--token", MASK, MASK)]),
        ("x http://u:p@h/", "x http://u:q@h/", [("arguments", MASK, MASK)]),
        ("x", "x --token=abc KEY=1", [("arguments", "", f"--token={MASK} KEY={MASK}")]),
    ],
)
def test_a_command_shows_only_its_differing_words(
    old: str, new: str, expected: list[tuple[str, str, str]]
) -> None:
    assert told(command(*old.split()), command(*new.split())) == expected


def test_words_with_spaces_or_control_characters_are_one_quoted_word() -> None:
    assert told(command("x", "-t", "a b"), command("x", "-t", "")) == [("-t", "'a b'", "''")]
    ((_, _, after),) = told(command("x", "-t", "a"), command("x", "-t", "\x1b[2J\n"))
    assert after.isprintable()


def test_long_texts_are_cut() -> None:
    ((_, before, after),) = told(command("x", "a" * 10_000), command("x", "\x1b" * 10_000))
    assert (len(before), len(after)) == (MAX_TEXT, MAX_TEXT)


def test_long_commands_are_compared_as_a_whole() -> None:
    old, new = (command("x", *(f"{n}{suffix}" for n in range(2000)), "end") for suffix in "ab")
    assert len(told(old, new)) == 1


def test_values_of_variables_are_never_shown() -> None:
    old = ProcessSpec(("x",), env=(("A", "one"), ("B", "two"), ("C", "same")))
    new = ProcessSpec(("x",), env=(("A", "other"), ("C", "same"), ("D", "new")))
    assert told(replace(SPEC, process=old), replace(SPEC, process=new)) == [
        ("env A", MASK, MASK),
        ("env B", MASK, ""),
        ("env D", "", MASK),
    ]


def test_passwords_in_a_probe_are_not_shown() -> None:
    ((_, _, after),) = told(SPEC, replace(SPEC, ready=ReadinessProbe(HttpProbe("http://u:secret@h/"))))
    assert "secret" not in after


def test_settings_show_their_values_in_words() -> None:
    new = replace(
        SPEC,
        initial_target=Target.DOWN,
        start_timeout=20.0,
        stop=StopPolicy(15),
        depends_on=("b", "c"),
        conditions=(("c", StartCondition.COMPLETED),),
    )
    assert told(SPEC, new) == [
        ("manage", "host/up", "host/down"),
        ("start-timeout", "15 s", "20 s"),
        ("stop-signal", "SIGINT", "SIGTERM"),
        ("depends-on", "", "b, c (completed)"),
    ]


OTHER_PROCESS = ProcessSpec(
    ("y",), env=(("A", "1"),), working_dir="/w", user="u", limits=(("nofile", None),),
    env_files=(EnvFile("/e", "1"),), env_inherit=("PATH",),
    group="g", umask=0o027, nice=5,
)  # fmt: skip
OTHER_SERVICE = ServiceSpec(
    "q", ("/d.yaml",), "ocs-b", "image:2", 2, (ServiceDependency("db"),), "2", PullPolicy.NEVER,
    built=True, profiles=("x",), platform="linux/arm64", content_files=("/s",), contents=ServiceContents("1"),
    stop_grace=400.0, hashed_definition="{}", slow_to_create=True, started_by_compose=True,
)  # fmt: skip
OTHER_SPEC = InstanceSpec(
    "a", "Other", Management.DOCKER, Target.DOWN, OTHER_PROCESS, None, "",
    ReadinessProbe(HttpProbe("http://h/")), LogPolicy("/logs"), 1.0, 2.0, StopPolicy(15),
    RestartPolicy(RestartWhen.NEVER), ("b",), (("b", StartCondition.STARTED),), restart_dependents=True,
    service_dependencies=("c",), position=7, success_codes=(2,),
    on_failure=Hook(("mail",)), on_recover=Hook(("mail", "ok"), "/", "daq", 5.0),
)  # fmt: skip
# Not in the site config, or a consequence of another key.
NOT_SHOWN = {"instance_id", "problem", "conditions", "source", "slow_to_create", "position"}


def test_every_setting_of_a_spec_shows_when_it_changes() -> None:
    docker = replace(SPEC, process=None, service=SERVICE)
    cases = [
        *((f.name, SPEC, replace(SPEC, **{f.name: getattr(OTHER_SPEC, f.name)})) for f in fields(SPEC)),
        *(
            (
                f.name,
                SPEC,
                replace(SPEC, process=replace(PROCESS, **{f.name: getattr(OTHER_PROCESS, f.name)})),
            )
            for f in fields(PROCESS)
        ),
        *(
            (
                f.name,
                docker,
                replace(docker, service=replace(SERVICE, **{f.name: getattr(OTHER_SERVICE, f.name)})),
            )
            for f in fields(SERVICE)
        ),
    ]
    silent = [name for name, old, new in cases if name not in NOT_SHOWN and old != new and not told(old, new)]
    assert silent == []


def test_another_content_of_an_env_file_shows() -> None:
    old, new = (
        replace(SPEC, process=ProcessSpec(("x",), env_files=(EnvFile("/e", digest),))) for digest in "12"
    )
    assert told(old, new) == [("env-file /e", MASK, MASK)]


def test_another_place_in_the_file_is_no_change_for_people_but_reaches_clients() -> None:
    instances = {"a": new_instance(replace(SPEC, position=1))}
    moved = replace(SPEC, position=2)
    planned = config_plan.apply_config(instances, HostSpec("host", (moved,)), NOW)
    assert planned.changed["a"].spec.position == 2
    assert planned.entries == ()
    assert config_changes.changes_of(instances, planned) == config_changes.NO_CHANGES
