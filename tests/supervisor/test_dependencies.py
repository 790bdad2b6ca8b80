"""Starts and stops of dependent instances across requests and reloads."""

from __future__ import annotations

from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.model import State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import (
    ReadinessProbe,
    RestartPolicy,
    RestartWhen,
    StartCondition,
    Target,
    TcpProbe,
)

from tests.fakes.driver import Behaviour
from tests.supervisor.conftest import ManagerHarness, spec


def down(harness: ManagerHarness, *ids: str) -> None:
    harness.manager.update(None, [TargetChange(i, Target.DOWN) for i in ids])


def test_a_dependency_of_a_successor_wakes_it(harness: ManagerHarness) -> None:
    harness.start(spec("base", initial_target=Target.DOWN), spec("top"))
    harness.pass_time(1)
    harness.reload(spec("base", initial_target=Target.DOWN), spec("top", "Other", depends_on=("base",)))
    harness.pass_time(1)
    assert harness.instances["top"].spec.agent_class == "Other"
    assert not harness.alive("top"), "the successor waits for its dependency"
    harness.manager.update(None, [TargetChange("base", Target.UP)])
    harness.pass_time(1)
    assert harness.instances["top"].standing.state is State.UP


def test_a_dropped_dependency_holds_up_no_stop(harness: ManagerHarness) -> None:
    harness.host.behave("top", Behaviour(ignores=frozenset({2})))
    harness.start(spec("base"), spec("top", depends_on=("base",)))
    harness.pass_time(1)
    down(harness, "top", "base")
    harness.pass_time(1)
    assert harness.alive("base"), "a dependency outlives its dependents"
    harness.reload(spec("base"), spec("top"))
    harness.pass_time(1)
    assert harness.alive("top")
    assert not harness.alive("base")


def test_a_dependency_named_twice_counts_once(harness: ManagerHarness) -> None:
    harness.start(spec("base"), spec("top", depends_on=("base", "base")))
    harness.pass_time(1)
    harness.reload(spec("base"))
    harness.pass_time(1)
    assert set(harness.instances) == {"base"}


def test_a_dependent_whose_dependency_crashed_stays_up(harness: ManagerHarness) -> None:
    harness.start(spec("base"), spec("top", depends_on=("base",)))
    harness.pass_time(1)
    runs = harness.alive("top")
    harness.host.crash("base", ExitStatus(1))
    harness.pass_time(5)
    assert harness.instances["base"].standing.state is State.UP
    assert harness.alive("top") == runs


def test_a_successor_with_a_running_dependency_does_not_wait(harness: ManagerHarness) -> None:
    harness.start(spec("base"), spec("top", depends_on=("base",)))
    harness.pass_time(1)
    harness.reload(spec("base"), spec("top", "Other", depends_on=("base",)))
    harness.pass_time(1)
    assert harness.instances["top"].spec.agent_class == "Other"
    assert harness.instances["top"].standing.state is State.UP


ONCE = RestartPolicy(RestartWhen.ON_FAILURE)
PROBE = ReadinessProbe(TcpProbe("127.0.0.1", 1))


def waits(harness: ManagerHarness, instance_id: str) -> tuple[str, str]:
    standing = harness.instances[instance_id].standing
    return standing.reason, standing.message


def test_a_dependent_of_a_one_shot_starts_when_the_one_shot_has_completed(harness: ManagerHarness) -> None:
    harness.start(spec("migrate", restart=ONCE), spec("app", depends_on=("migrate",)))
    harness.pass_time(5)
    assert waits(harness, "app") == ("WaitingForDependencies", "waiting for migrate to complete")
    harness.host.crash("migrate", ExitStatus(code=0))
    harness.pass_time(1)
    assert harness.instances["app"].standing.state is State.UP
    harness.host.crash("app", ExitStatus(code=1))
    harness.pass_time(5)
    assert harness.instances["app"].standing.state is State.UP, "a completed one-shot delays no restart"


def test_a_dependent_of_a_failed_one_shot_says_so(harness: ManagerHarness) -> None:
    never = RestartPolicy(RestartWhen.NEVER)
    harness.start(spec("migrate", restart=never), spec("app", depends_on=("migrate",)))
    harness.pass_time(1)
    harness.host.crash("migrate", ExitStatus(code=1))
    harness.pass_time(1)
    assert waits(harness, "app") == ("DependencyDown", "waiting for migrate to complete (it has failed)")


def test_a_condition_decides_what_a_start_waits_for(harness: ManagerHarness) -> None:
    harness.host.behave("base", Behaviour(ready_after=None))
    conditions = (("base", StartCondition.STARTED),)
    harness.start(
        spec("base", start_timeout=1000.0, ready=PROBE),
        spec("early", depends_on=("base",), conditions=conditions),
        spec("late", depends_on=("base",)),
    )
    harness.pass_time(1)
    assert harness.instances["early"].standing.state is State.UP
    assert waits(harness, "late") == ("WaitingForDependencies", "waiting for base to be up")


def test_a_dependency_that_is_down_on_purpose_is_named_along_the_chain(harness: ManagerHarness) -> None:
    harness.start(
        spec("hub", initial_target=Target.DOWN),
        spec("mid", depends_on=("hub",)),
        spec("top", depends_on=("mid",)),
    )
    harness.pass_time(1)
    assert waits(harness, "mid") == ("DependencyDown", "waiting for hub to be up (its target is down)")
    assert waits(harness, "top")[0] == "DependencyDown"
    harness.manager.update(None, [TargetChange("top", Target.UP, with_dependencies=True)])
    harness.pass_time(1)
    assert {i.standing.state for i in harness.instances.values()} == {State.UP}
    assert harness.instances["hub"].wanted.target is Target.UP


def test_a_dependency_may_restart_its_dependents(harness: ManagerHarness) -> None:
    harness.start(
        spec("base", restart_dependents=True),
        spec("top", depends_on=("base",)),
        spec("other", depends_on=("base",), initial_target=Target.DOWN),
    )
    harness.pass_time(1)
    before = harness.instances["top"].standing.runs
    harness.host.crash("base", ExitStatus(code=1))
    harness.pass_time(5)
    assert harness.instances["top"].standing.runs == before + 1
    assert harness.instances["top"].standing.state is State.UP
    assert not harness.alive("other")
    harness.pass_time(100)
    assert harness.instances["top"].standing.runs == before + 1, "one restart for each run of the dependency"
