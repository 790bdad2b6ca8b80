"""Starts and stops of dependent instances across requests and reloads."""

from __future__ import annotations

from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.model import State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import Target

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
