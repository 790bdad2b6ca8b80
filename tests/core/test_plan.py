"""Plans for requests and new configs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostmanager_server.core import config_plan, dependencies, plan
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, State, new_instance
from hostmanager_server.core.plan import ALL, BadEntry, TargetChange
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, ProcessSpec, ServiceSpec, Target

from tests.core.instances import with_fields
from tests.core.scripted_instance import PROCESS, ScriptedInstance, make, stops

NOW = Instant(1000.0, 1e9)
UP, DOWN = Target.UP, Target.DOWN


def spec(instance_id: str = "a", agent_class: str = "Agent", **fields: object) -> InstanceSpec:
    plain = InstanceSpec(instance_id, agent_class, process=PROCESS)
    return replace(plain, **fields)  # type: ignore[arg-type]  # fields of the test's choice


def table(*specs: InstanceSpec) -> dict[str, Instance]:
    return {s.instance_id: new_instance(s) for s in specs}


def apply(instances: dict[str, Instance], *specs: InstanceSpec) -> config_plan.Plan:
    return config_plan.apply_config(instances, HostSpec("host", specs), NOW)


def reload(script: ScriptedInstance, *specs: InstanceSpec) -> list[str]:
    """Apply a config to the instance, and return the reasons of the log entries."""
    result = apply({"a": script.instance}, *specs)
    script.instance = result.changed.get("a", script.instance)
    return [entry.reason for entry in result.entries]


# --- targets


def test_all_up_and_then_one_down_ends_with_exactly_that_one_down() -> None:
    instances = table(spec("a"), spec("b"), spec("c"))
    changed = plan.set_targets(instances, [TargetChange(ALL, UP), TargetChange("b", DOWN)])
    assert {n: i.wanted.target for n, i in changed.items()} == {"a": UP, "b": DOWN, "c": UP}


def test_a_request_that_names_an_instance_twice_makes_one_generation() -> None:
    instances = table(spec("a"))
    changed = plan.set_targets(instances, [TargetChange("a", UP), TargetChange(ALL, DOWN)])
    assert changed["a"].wanted.generation == instances["a"].wanted.generation + 1


def test_unknown_ids_are_named_with_their_place() -> None:
    changes = [TargetChange("a", UP), TargetChange("x", UP), TargetChange(ALL, DOWN)]
    (bad,) = plan.check_targets(["a"], changes)
    assert (bad.index, bad.unknown) == (1, True)
    assert "'x'" in bad.why


def test_a_retired_instance_keeps_its_target() -> None:
    instances = {"a": plan.retire(new_instance(spec("a")))}
    assert plan.set_targets(instances, [TargetChange(ALL, UP)]) == {}


# --- restart


def test_a_restart_is_rejected_with_a_reason_for_each_instance() -> None:
    instances = table(
        spec("a"), spec("b", initial_target=DOWN), spec("c", process=None, problem="no command")
    )
    instances["d"] = plan.retire(new_instance(spec("d")))
    bad = plan.check_restart(instances, ["a", "b", "c", "d", "x"])
    assert [(entry.index, entry.unknown) for entry in bad] == [(1, False), (2, False), (3, False), (4, True)]
    assert "down" in bad[0].why
    assert "no command" in bad[1].why
    assert "retired" in bad[2].why
    assert bad[3] == BadEntry(4, "no instance 'x' on this host", unknown=True)


def test_the_error_for_a_name_of_compose_names_the_instance() -> None:
    service = ServiceSpec("lab", ("/lab/compose.yaml",), "ocs-a", "agent:1")
    instances = table(spec("a", process=None, service=service), spec("b"))
    for name in ("ocs-a", "lab/ocs-a", "lab-ocs-a"):
        (bad,) = plan.check_targets(instances, [TargetChange(name, UP)], instances.values())
        assert bad.why == f"no instance {name!r} on this host; compose's {name!r} is the instance 'a'"
        assert plan.check_restart(instances, [name])[0].why == bad.why


def test_a_restart_counts_as_a_new_generation() -> None:
    instances = table(spec("a"))
    changed = plan.restart(instances, ["a"])
    assert changed["a"].wanted.restart
    assert changed["a"].wanted.generation == 2


# --- config


def test_new_instances_get_their_configured_target() -> None:
    result = apply({}, spec("a"), spec("b", initial_target=DOWN))
    assert {n: i.wanted.target for n, i in result.changed.items()} == {"a": UP, "b": DOWN}
    assert [entry.reason for entry in result.entries] == ["Added", "Added"]


def test_known_instances_keep_their_target() -> None:
    instances = {"a": new_instance(spec("a"), DOWN)}
    result = apply(instances, spec("a", start_timeout=99.0))
    assert result.changed["a"].wanted.target is DOWN
    assert result.changed["a"].spec.start_timeout == 99.0
    assert apply(dict(result.changed), spec("a", start_timeout=99.0)).changed == {}


def test_a_vanished_instance_retires_once() -> None:
    instances = table(spec("a"))
    result = apply(instances)
    gone = result.changed["a"]
    assert (gone.wanted.management, gone.wanted.target, gone.retired) == (Management.RETIRED, DOWN, True)
    assert [entry.reason for entry in result.entries] == ["Retired"]
    assert apply(dict(result.changed)).changed == {}


def test_a_changed_command_shows_and_does_not_restart() -> None:
    s = make().up()
    other = spec("a", process=ProcessSpec(("other",)))
    assert reload(s, other) == ["RestartRequired"]
    assert s.decide() == []
    assert s.instance.restart_required
    assert reload(s, other) == [], "the event log has one entry"
    s.restart()
    s.ends()
    assert not s.instance.restart_required


def test_the_source_of_a_command_is_no_reason_to_restart() -> None:
    s = make().up()
    assert reload(s, spec("a", process=replace(PROCESS, source="agent-classes"))) == []
    assert not s.instance.restart_required


@pytest.mark.parametrize(
    "changed", [spec("a", "Other", initial_target=DOWN), spec("a", management=Management.DOCKER)]
)
def test_a_change_of_class_or_management_resets_the_instance(changed: InstanceSpec) -> None:
    s = make().up()
    s.crash_and_return()
    runs, generation = s.instance.standing.runs, s.instance.wanted.generation
    assert reload(s, changed) == ["Reset"]
    assert stops(s.decide())
    assert s.instance.spec.agent_class == "Agent", "the former spec applies while the run lives"
    s.ends()
    assert s.instance.spec == changed
    assert s.instance.wanted.target is changed.initial_target
    assert s.instance.standing.fail_times == ()
    assert s.instance.standing.runs >= runs, "run numbers are unique"
    assert s.instance.wanted.generation == generation + 1
    assert s.instance.observed.last_exit is not None


def test_a_reset_while_down_is_done_at_once() -> None:
    s = make(DOWN)
    s.decide()
    reload(s, spec("a", "Other"))
    assert s.instance.spec.agent_class == "Other"
    assert s.instance.wanted.target is UP
    assert s.instance.standing.observed_generation == 1, "the observed generation never decreases"


def test_a_target_set_during_a_reset_goes_to_the_successor() -> None:
    s = make().up()
    reload(s, spec("a", "Other"))
    s.target(DOWN)
    assert reload(s, spec("a", "Other", start_timeout=99.0)) == [], "the reset is in progress"
    assert s.ends() == []
    assert (s.instance.spec.agent_class, s.instance.spec.start_timeout) == ("Other", 99.0)
    assert s.instance.wanted.target is DOWN
    assert s.instance.spec.initial_target is UP, "the spec keeps the configured target"


def test_a_reset_that_is_undone_in_time_keeps_the_run() -> None:
    s = make().up()
    reload(s, spec("a", "Other"))
    reload(s, spec("a"))
    assert s.instance.wanted.successor is None
    assert s.decide() == []
    assert s.instance.standing.state is State.UP


def test_a_reset_that_is_undone_takes_the_target_of_the_new_config() -> None:
    s = make().up()
    reload(s, spec("a", "Other"))
    reload(s, spec("a", initial_target=DOWN))
    assert s.instance.wanted.target is DOWN
    assert stops(s.decide())
    assert s.ends() == []
    assert s.instance.settled


def test_a_passive_successor_does_not_keep_the_former_run_alive() -> None:
    s = make().up()
    reload(s, spec("a", "Other", initial_target=Target.PASSIVE))
    assert stops(s.decide())


def test_an_instance_that_returns_to_the_config_ends_before_its_reset() -> None:
    s = make().up()
    reload(s)
    assert stops(s.decide())
    assert reload(s, spec("a")) == ["Reset"]
    assert reload(s, spec("a")) == [], "another reload changes nothing"
    assert not s.instance.retired
    assert s.decide() == []
    (launch,) = s.ends()
    assert s.instance.standing.state is State.WAIT_START
    assert s.instance.wanted.target is UP
    assert launch


# --- dependencies


def up(name: str, *depends_on: str) -> Instance:
    s = make(depends_on=depends_on).up()
    return replace(s.instance, spec=replace(s.instance.spec, instance_id=name))


def test_an_instance_waits_for_dependencies_that_are_down_stopping_or_missing() -> None:
    waiting = new_instance(spec("z", depends_on=("a", "b", "c", "d")))
    instances = {
        "a": up("a"),
        "b": new_instance(spec("b")),
        "c": plan.set_targets({"c": up("c")}, [TargetChange("c", DOWN)])["c"],
    }
    assert [each.instance_id for each in dependencies.waiting_for(instances, waiting)] == ["b", "c", "d"]


def test_a_passive_dependency_that_runs_is_up() -> None:
    waiting = new_instance(spec("z", depends_on=("a",)))
    assert dependencies.waiting_for({"a": with_fields(up("a"), target=Target.PASSIVE)}, waiting) == ()


def test_only_stopping_dependents_hold_up_a_stop() -> None:
    dependents = {
        "leaving": with_fields(up("leaving", "a"), target=DOWN),
        "staying": up("staying", "a"),
        "passive": with_fields(up("passive", "a"), target=Target.PASSIVE),
        "down": new_instance(spec("down"), DOWN),
    }
    assert dependencies.held_by(dependents, up("a"), [*dependents, "unknown"]) == ("leaving",)


def test_a_change_that_is_repeated_counts_once_and_the_last_one_wins() -> None:
    """One request may name everything a thousand times."""
    both = [TargetChange(ALL, Target.DOWN), TargetChange("b", Target.UP), TargetChange(ALL, Target.UP)]
    assert plan._effective(both * 300) == both
    known = {i: new_instance(spec(i)) for i in ("a", "b")}
    once, often = plan.set_targets(known, both), plan.set_targets(known, both * 300)
    assert once == often
    down = [*both * 300, TargetChange("a", Target.DOWN)]
    assert plan.set_targets(known, down)["a"].wanted.target is Target.DOWN
