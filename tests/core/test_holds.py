"""Holds: neither starts nor restarts until the end of the hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostmanager_server.core import holds, plan
from hostmanager_server.core.actions import Launch
from hostmanager_server.core.dependencies import waiting_for
from hostmanager_server.core.events import Degraded, ExitStatus, ProbeAnswer, ProbeAnswered, Verdict
from hostmanager_server.core.model import Hold, Outcome, State
from hostmanager_server.core.past import is_as_wanted
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.recovery import Recovered, recover_targets
from hostmanager_server.core.spec import LivenessProbe, RestartPolicy, RestartWhen, Target, TcpProbe

from tests.core.scripted_instance import ScriptedInstance, make
from tests.core.test_conditions import running


def hold(s: ScriptedInstance, seconds: float | None = 3600.0, reason: str = "valve swap") -> ScriptedInstance:
    until = None if seconds is None else s.now.plus(seconds)
    changed, entries = holds.hold({"a": s.instance}, ["a"], Hold(s.now, until, reason))
    s.instance = changed["a"]
    s.entries += entries
    assert s.decide() == []
    return s


def release(s: ScriptedInstance) -> list[object]:
    changed, entries = holds.release({"a": s.instance}, ["a"], s.now)
    s.instance = changed.get("a", s.instance)
    s.entries += entries
    return list(s.decide())


def test_what_ends_while_held_stays_down_and_is_told() -> None:
    s = hold(make().up())
    assert (s.state(), s.instance.standing.reason) == (State.UP, "Running")
    assert s.ends(3) == []
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Held")
    assert s.instance.standing.message == "held until 2001-09-09 02:46 UTC (valve swap); last exit: code 3"
    assert not s.instance.settled
    assert not is_as_wanted(s.instance)
    assert "Exited" in s.reasons()
    assert s.wait(3599.0) == []
    (launch,) = s.wait(2.0)
    assert isinstance(launch, Launch)
    assert s.reasons()[-2:] == ["HoldEnded", "Launching"]
    assert not s.instance.held


def test_a_release_starts_at_once_without_the_backoff() -> None:
    s = hold(make().up(), None)
    s.ends(1)
    assert s.instance.standing.message.startswith("held until released (valve swap)")
    assert s.wait(1e6) == []
    (launch,) = release(s)
    assert isinstance(launch, Launch)
    assert "Released" in s.reasons()
    assert release(s) == []
    assert s.reasons().count("Released") == 1


@pytest.mark.parametrize("state", [State.START_AT, State.START, State.WAIT_START])
def test_a_hold_ends_every_attempt_to_start(state: State) -> None:
    s = make()
    if state is State.START:
        s.neighbours(waiting_for=("b",))
    elif state is State.START_AT:
        s.decide()
        s.start_failed()
    else:
        s.decide()
    assert s.state() is state
    hold(s)
    if state is State.WAIT_START:
        s.start_failed()
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Held")
    s.neighbours()
    assert s.state() is State.DOWN


def test_a_held_instance_goes_down_on_request_and_stays_down_afterwards() -> None:
    s = hold(make().up())
    assert s.target(Target.DOWN) != []
    s.ends(0)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Stopped")
    assert s.wait(4000.0) == []
    assert s.state() is State.DOWN


def test_a_hang_restarts_nothing_while_held() -> None:
    s = hold(make(alive=LivenessProbe(TcpProbe("h", 1), failures=1)).up())
    failed = ProbeAnswer(Verdict.FAILED, s.now, "refused", 1)
    assert s.post(ProbeAnswered(s.instance.run_key(), failed)) == []
    assert s.state() is State.UP
    assert release(s) != []
    assert s.state() is State.WAIT_DEAD


def test_a_lost_container_is_started_again_after_the_hold() -> None:
    s = hold(running())
    lost = Degraded(s.instance.run_key(), "1 of 2 containers run", ExitStatus(1), s.now)
    assert s.post(lost) == []
    assert (s.state(), s.instance.standing.reason) == (State.UP, "Degraded")
    assert s.instance.standing.failures == 0
    release(s)
    (launch,) = s.until_state_deadline()
    assert isinstance(launch, Launch)


def test_a_one_shot_that_ends_while_held_has_its_outcome() -> None:
    s = hold(make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up())
    s.ends(0)
    assert (s.state(), s.instance.standing.outcome) == (State.DOWN, Outcome.COMPLETED)


def test_requests_that_would_start_a_held_instance_are_refused() -> None:
    s = hold(make().up())
    table = {"a": s.instance}
    up = [TargetChange("a", Target.UP)]
    assert plan.check_targets(table, up, table.values()) == [], "the instance runs"
    assert plan.check_targets(table, [TargetChange("a", Target.DOWN)], table.values()) == []
    (bad,) = plan.check_restart(table, ["a"])
    assert bad.why.startswith("cannot restart 'a': held until 2001-09-09 02:46 UTC (valve swap); release it")
    assert plan.restartable(table) == []
    s.ends(1)
    table = {"a": s.instance}
    (bad,) = plan.check_targets(table, up, table.values())
    assert bad.why.endswith("release it first: hostmanager release a")
    assert plan.check_targets(table, [TargetChange(plan.ALL, Target.UP)], table.values()) == []


def test_a_dependent_of_a_held_instance_knows_that_only_a_request_helps() -> None:
    s = hold(make().up())
    s.ends(1)
    b = make(instance_id="b", depends_on=("a",)).instance
    (unmet,) = waiting_for({"a": s.instance, "b": b}, b)
    assert unmet.hopeless == "it is held"


def test_a_hold_of_an_earlier_boot_ends_by_the_wall_clock() -> None:
    s = make()
    before = replace(s.now, mono=77.0)
    earlier = Hold(before, before.plus(100.0), "swap")
    changed, (entry,) = recover_targets(
        {"a": s.instance}, Recovered(holds={"a": earlier, "gone": earlier}), s.now
    )
    assert entry.reason == "HoldsRestored"
    s.instance = changed["a"]
    assert s.decide() == []
    assert s.instance.standing.reason == "Held"
    assert s.wait(99.0) == []
    assert len(s.wait(1.0)) == 1
