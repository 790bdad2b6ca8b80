"""Single runs of one-shots at an operator's request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostmanager_server.core import holds, jobs, plan
from hostmanager_server.core.actions import Launch
from hostmanager_server.core.history import history_of, with_history
from hostmanager_server.core.model import Hold, Instance, Outcome, State, new_instance
from hostmanager_server.core.plan import BadEntry, TargetChange
from hostmanager_server.core.spec import InstanceSpec, RestartPolicy, RestartWhen, Target

from tests.core.scripted_instance import PROCESS, ScriptedInstance, make

ON_FAILURE, NEVER = RestartPolicy(RestartWhen.ON_FAILURE), RestartPolicy(RestartWhen.NEVER)


def one_shot(target: Target = Target.DOWN, restart: RestartPolicy = ON_FAILURE) -> ScriptedInstance:
    s = make(target, restart=restart, run_arguments=True)
    s.decide()
    return s


def run(s: ScriptedInstance, *arguments: str) -> list[object]:
    assert jobs.why_not(s.instance, arguments) == ""
    s.instance = jobs.run_once(s.instance, arguments)
    return list(s.decide())


def test_a_run_has_its_arguments_and_the_former_target_afterwards() -> None:
    s = one_shot()
    (launch,) = run(s, "--full")
    assert isinstance(launch, Launch)
    assert launch.spec.process == replace(PROCESS, argv=("agent", "--full"))
    s.started()
    s.ready()
    assert not s.instance.restart_required
    s.ends(0)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Finished")
    assert (s.instance.wanted.target, s.instance.wanted.job) == (Target.DOWN, None)
    assert s.instance.settled
    (launch,) = run(s)
    assert isinstance(launch, Launch)
    assert launch.spec.process == PROCESS


@pytest.mark.parametrize("policy", [ON_FAILURE, NEVER])
@pytest.mark.parametrize("fails", ["exit", "start"])
def test_no_restart_follows_a_failed_run(policy: RestartPolicy, fails: str) -> None:
    s = one_shot(restart=policy)
    run(s)
    if fails == "start":
        s.start_failed()
    else:
        s.started()
        s.ready()
        s.ends(3)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")
    assert s.instance.standing.outcome is Outcome.FAILED
    assert s.instance.wanted.target is Target.DOWN
    assert s.wait(3600.0) == []


def test_a_finished_one_shot_runs_again_and_keeps_its_target() -> None:
    s = one_shot(Target.UP)
    s.started()
    s.ready()
    s.ends(0)
    (launch,) = run(s)
    assert isinstance(launch, Launch)
    s.started()
    s.ready()
    s.ends(0)
    assert s.instance.wanted.target is Target.UP
    assert s.instance.standing.outcome is Outcome.COMPLETED


def test_a_run_can_be_stopped_and_a_request_for_up_makes_the_target_stay() -> None:
    s = one_shot()
    run(s)
    s.started()
    assert s.target(Target.DOWN) != []
    s.ends(0)
    assert (s.state(), s.instance.wanted.job) == (State.DOWN, None)
    run(s)
    s.started()
    s.target(Target.UP)
    s.ready()
    s.ends(0)
    assert s.instance.wanted.target is Target.UP


def test_the_targets_for_the_next_daemon_are_those_after_the_run() -> None:
    s = one_shot()
    run(s)
    assert s.instance.wanted.target is Target.UP
    assert plan.requested_targets({"a": s.instance}) == {"a": Target.DOWN}
    history = history_of(s.instance)
    assert history is not None
    fresh = new_instance(s.instance.spec, Target.DOWN)
    assert with_history(fresh, history, s.now).wanted.target is Target.UP
    other = new_instance(s.instance.spec, Target.PASSIVE)
    assert with_history(other, history, s.now).wanted.job is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"restart": RestartPolicy()}, "it is no one-shot; set restart: never or on-failure"),
        ({"process": None, "problem": "no command"}, "not operable: no command"),
        ({"initial_target": Target.PASSIVE}, "it is passive, and only observed"),
        ({"run_arguments": False}, "the config allows no arguments; set run-arguments: true"),
    ],
)
def test_a_refusal_says_what_to_do(change: dict[str, object], why: str) -> None:
    s = one_shot()
    instance = replace(s.instance, spec=replace(s.instance.spec, **change))  # type: ignore[arg-type]  # the test's choice
    assert jobs.why_not(instance, ["x"]).startswith(f"cannot run 'a': {why}")


def test_what_runs_or_is_held_is_refused() -> None:
    s = one_shot()
    held = holds.hold({"a": s.instance}, ["a"], Hold(s.now, None, "swap"))[0]["a"]
    assert "held until released (swap); release it first" in jobs.why_not(held, ())
    run(s)
    assert "it runs already" in jobs.why_not(s.instance, ())
    s = one_shot(Target.UP)
    assert "it runs already" in jobs.why_not(s.instance, ())


def named(instance_id: str, agent_class: str, policy: RestartPolicy) -> Instance:
    return new_instance(InstanceSpec(instance_id, agent_class, process=PROCESS, restart=policy))


def test_a_class_stands_for_its_only_one_shot() -> None:
    table = {
        "a": named("a", "Job", NEVER),
        "b": named("b", "Job", RestartPolicy()),
        "c": named("c", "Two", NEVER),
        "d": named("d", "Two", ON_FAILURE),
        "e": named("e", "Service", RestartPolicy()),
    }
    assert jobs.find(table, "a") == "a"
    assert jobs.find(table, "Job") == "a"
    several, none, unknown = (jobs.find(table, name) for name in ("Two", "Service", "nosuch"))
    assert isinstance(several, BadEntry)
    assert "the class has several one-shots; name one: c, d" in several.why
    assert isinstance(none, BadEntry)
    assert "no instance of the class is a one-shot" in none.why
    assert isinstance(unknown, BadEntry)
    assert unknown.unknown


def test_up_all_leaves_a_run_alone() -> None:
    s = one_shot()
    run(s)
    changed = plan.set_targets({"a": s.instance}, [TargetChange(plan.ALL, Target.UP)])
    s.instance = changed["a"]
    assert s.decide() == []
    assert s.instance.wanted.job is not None
