"""The engine's index of who waits for whom follows what the instances say."""

from __future__ import annotations

from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.model import State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import Target

from tests.fakes.driver import Behaviour
from tests.supervisor.conftest import Bench, spec


def down(bench: Bench, *ids: str) -> None:
    bench.manager.update(None, [TargetChange(i, Target.DOWN) for i in ids], False)


def test_a_dependency_of_a_successor_wakes_it(bench: Bench) -> None:
    bench.start(spec("base", initial_target=Target.DOWN), spec("top"))
    bench.pass_time(1)
    bench.reload(spec("base", initial_target=Target.DOWN), spec("top", "Other", depends_on=("base",)))
    bench.pass_time(1)
    assert bench.instances["top"].spec.agent_class == "Other"
    assert not bench.alive("top"), "it waits for what it depends on now"
    bench.manager.update(None, [TargetChange("base", Target.UP)], False)
    bench.pass_time(1)
    assert bench.instances["top"].standing.state is State.UP


def test_a_dependency_that_is_dropped_holds_nothing_up_any_more(bench: Bench) -> None:
    bench.host.behave("top", Behaviour(ignores=frozenset({2})))
    bench.start(spec("base"), spec("top", depends_on=("base",)))
    bench.pass_time(1)
    down(bench, "top", "base")
    bench.pass_time(1)
    assert bench.alive("base"), "it outlives what depends on it"
    bench.reload(spec("base"), spec("top"))
    bench.pass_time(1)
    assert bench.alive("top")
    assert not bench.alive("base")


def test_a_dependency_named_twice_counts_once(bench: Bench) -> None:
    bench.start(spec("base"), spec("top", depends_on=("base", "base")))
    bench.pass_time(1)
    bench.reload(spec("base"))
    bench.pass_time(1)
    assert set(bench.instances) == {"base"}


def test_a_dependent_whose_dependency_crashed_stays_up(bench: Bench) -> None:
    bench.start(spec("base"), spec("top", depends_on=("base",)))
    bench.pass_time(1)
    runs = bench.alive("top")
    bench.host.crash("base", ExitStatus(1))
    bench.pass_time(5)
    assert bench.instances["base"].standing.state is State.UP
    assert bench.alive("top") == runs


def test_a_successor_whose_dependency_is_up_waits_for_nothing(bench: Bench) -> None:
    bench.start(spec("base"), spec("top", depends_on=("base",)))
    bench.pass_time(1)
    bench.reload(spec("base"), spec("top", "Other", depends_on=("base",)))
    bench.pass_time(1)
    assert bench.instances["top"].spec.agent_class == "Other"
    assert bench.instances["top"].standing.state is State.UP
