"""Selectors of instances, and the judgement whether an instance is failing."""

from __future__ import annotations

import pytest
from hostmanager_server.core.events import Instant
from hostmanager_server.core.health import is_failing
from hostmanager_server.core.model import NOT_YET_OBSERVED, Instance, Outcome, State, new_instance
from hostmanager_server.core.plan import ALL, TargetChange
from hostmanager_server.core.selection import (
    LONGEST,
    SelectorError,
    resolve_changes,
    select,
    select_restarts,
)
from hostmanager_server.core.spec import HostSpec, InstanceSpec, ProcessSpec, Target

from tests.core.instances import with_fields

UP, DOWN = Target.UP, Target.DOWN


def spec(instance_id: str, agent_class: str = "Agent", *labels: str, target: Target = UP) -> InstanceSpec:
    pairs = tuple((name, value) for name, _, value in (label.partition("=") for label in sorted(labels)))
    return InstanceSpec(
        instance_id, agent_class, initial_target=target, process=ProcessSpec(("x",)), labels=pairs
    )


SPECS = {
    s.instance_id: s
    for s in (
        spec("thermo1", "Lakeshore240", "rack=3", "cold"),
        spec("thermo2", "Lakeshore372", "rack=4"),
        spec("cam[1]", "Camera", "rack=3"),
        spec("cam1", "Camera"),
        spec("class:x", "Odd"),
    )
}

HOST = HostSpec("host", tuple(SPECS.values()))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("thermo1", ["thermo1"]),
        ("thermo*", ["thermo1", "thermo2"]),
        ("thermo?", ["thermo1", "thermo2"]),
        ("thermo[!1]", ["thermo2"]),
        ("*", ["cam1", "cam[1]", "class:x", "thermo1", "thermo2"]),
        ("class:Camera", ["cam1", "cam[1]"]),
        ("class:Camera[d]", ["cam1", "cam[1]"]),
        ("class:Lakeshore*", ["thermo1", "thermo2"]),
        ("label:rack", ["cam[1]", "thermo1", "thermo2"]),
        ("label:rack=3", ["cam[1]", "thermo1"]),
        ("@rack=[45]", ["thermo2"]),
        ("@cold", ["thermo1"]),
        ("@cold=", ["thermo1"]),
        ("@*=4", ["thermo2"]),
        ("id:cam[1]", ["cam[1]"]),
    ],
)
def test_a_selector_names_instances_by_pattern_class_and_label(text: str, ids: list[str]) -> None:
    assert select(text, SPECS) == ids


@pytest.mark.parametrize("text", ["cam[1]", "class:x"])
def test_an_id_with_characters_of_a_pattern_selects_its_own_instance(text: str) -> None:
    assert select(text, SPECS) == [text]


@pytest.mark.parametrize(
    ("text", "why", "unknown"),
    [
        ("disk*", "no instance on this host matches 'disk*'", True),
        ("class:Disk", "(classes: Camera, Lakeshore240, Lakeshore372, Odd)", True),
        ("@row", "(labels: cold, rack=3, rack=4)", True),
        ("id:thermo*", "no instance on this host matches", True),
        ("", "must not be empty", False),
        ("class:", "names nothing", False),
        ("@", "names nothing", False),
        ("*" * (LONGEST + 1), f"at most {LONGEST} characters", False),
    ],
)
def test_a_selector_without_an_instance_is_an_error(text: str, why: str, *, unknown: bool) -> None:
    with pytest.raises(SelectorError) as caught:
        select(text, SPECS)
    assert why in str(caught.value)
    assert caught.value.unknown is unknown


def test_a_pattern_of_a_hostile_client_costs_little() -> None:
    hostile = "*a" * 90 + "b"
    with pytest.raises(SelectorError):
        select(hostile, {name: spec(name) for name in ("a" * 80, "a" * 79)})


# --- changes


def table(*specs: InstanceSpec) -> dict[str, Instance]:
    return {s.instance_id: new_instance(s) for s in specs}


def broken(instance: Instance) -> Instance:
    return with_fields(instance, state=State.START_AT, reason="BackingOff", failures=2)


def test_a_change_by_selector_becomes_one_for_each_instance() -> None:
    changes = [TargetChange("@rack", UP, selector=True), TargetChange("thermo2", DOWN)]
    resolved, bad = resolve_changes(changes, HOST, {})
    assert bad == []
    assert resolved == [
        TargetChange("cam[1]", UP),
        TargetChange("thermo1", UP),
        TargetChange("thermo2", UP),
        TargetChange("thermo2", DOWN),
    ]


def test_a_change_of_failing_instances_leaves_the_others_alone() -> None:
    instances = table(*SPECS.values())
    instances["thermo2"] = broken(instances["thermo2"])
    resolved, bad = resolve_changes([TargetChange(ALL, UP, failing=True)], HOST, instances)
    assert (resolved, bad) == ([TargetChange("thermo2", UP)], [])
    resolved, bad = resolve_changes([TargetChange("cam*", UP, selector=True, failing=True)], HOST, instances)
    assert (resolved, bad) == ([], [])


def test_bad_selectors_of_a_change_are_named_with_their_place() -> None:
    changes = [TargetChange("a", UP), TargetChange("x*", UP, selector=True)]
    _, (bad,) = resolve_changes(changes, HOST, {})
    assert (bad.index, bad.unknown) == (1, True)


def test_a_restart_by_selector_leaves_out_what_cannot_be_restarted() -> None:
    instances = table(spec("a1"), spec("a2", target=DOWN), spec("b", target=DOWN))
    assert select_restarts(instances, [], ["a*"], failing=False) == (["a1"], [])
    _, (bad,) = select_restarts(instances, [], ["b*"], failing=False)
    assert bad.where == "selectors[0]"
    assert "its target is down" in bad.why
    _, (bad,) = select_restarts(instances, ["a2"], ["a*"], failing=False)
    assert (bad.index, bad.where) == (0, "")


def test_a_restart_of_failing_instances_restarts_only_those() -> None:
    instances = table(spec("a1"), spec("a2"), spec("b"))
    instances["a2"], instances["b"] = broken(instances["a2"]), broken(instances["b"])
    assert select_restarts(instances, [], [], failing=True) == (["a2", "b"], [])
    assert select_restarts(instances, [], ["a*"], failing=True) == (["a2"], [])


# --- failing


NOW = Instant(100.0, 1000.0)


@pytest.mark.parametrize(
    ("fields", "failing"),
    [
        ({"state": State.UP}, False),
        ({"state": State.WAIT_START}, False),
        ({"state": State.START, "reason": "WaitingForDependencies"}, False),
        ({"state": State.START, "reason": "DependencyDown"}, True),
        ({"state": State.START_AT, "failures": 1, "retry_at": NOW}, True),
        ({"state": State.WAIT_START, "failures": 1}, True),
        ({"state": State.UP, "failures": 1}, False),
        ({"state": State.UP, "reason": "Unhealthy"}, True),
        ({"state": State.WAIT_DEAD, "reason": "StopFailed", "target": DOWN}, True),
        ({"state": State.DOWN, "outcome": Outcome.FAILED}, True),
        ({"state": State.DOWN, "outcome": Outcome.COMPLETED}, False),
        ({"state": State.DOWN, "failures": 3, "target": DOWN}, False),
        ({"state": State.DOWN, "failures": 3, "enforced": False}, False),
        ({"unobservable": "the engine does not answer", "target": DOWN}, True),
        ({"unobservable": NOT_YET_OBSERVED}, False),
    ],
)
def test_an_instance_is_failing_if_something_is_wrong(fields: dict[str, object], *, failing: bool) -> None:
    assert is_failing(with_fields(new_instance(spec("a")), **fields)) is failing


def test_an_instance_without_a_command_is_failing_while_wanted_up() -> None:
    nothing = InstanceSpec("a", "Agent", problem="no command")
    assert is_failing(new_instance(nothing))
    assert not is_failing(new_instance(nothing, DOWN))
