"""Scheduled one-shots: due runs, left out runs, and what survives a daemon."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostmanager_server.core import holds, jobs, plan
from hostmanager_server.core.actions import Action, Launch
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.history import history_of, with_history
from hostmanager_server.core.model import Hold, Outcome, State, new_instance
from hostmanager_server.core.past import is_as_wanted
from hostmanager_server.core.schedules import RECHECK, next_wake
from hostmanager_server.core.spec import RestartPolicy, RestartWhen, Schedule, Target

from tests.core.instances import with_fields
from tests.core.scripted_instance import ScriptedInstance, make

SCHEDULE = Schedule("0 * * * *")
HOUR = 3600.0


def scheduled(when: RestartWhen = RestartWhen.ON_FAILURE, target: Target = Target.UP) -> ScriptedInstance:
    s = make(target, restart=RestartPolicy(when), schedule=SCHEDULE)
    assert next_in(s, HOUR) == []
    return s


def next_in(s: ScriptedInstance, seconds: float) -> list[Action]:
    """Set the time of the next run, as the supervisor does."""
    s.instance = with_fields(s.instance, next_run=s.now.wall + seconds)
    return s.decide()


def test_a_run_begins_at_its_time_and_never_before() -> None:
    s = scheduled()
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Scheduled")
    assert s.instance.standing.message == "next run 2001-09-09 02:46 UTC; never started"
    assert s.instance.settled
    assert is_as_wanted(s.instance)
    assert s.wait(HOUR - 1) == []
    (launch,) = s.wait(1.0)
    assert isinstance(launch, Launch)
    assert s.reasons() == ["RunDue", "Launching"]
    assert s.instance.observed.next_run is None, "the supervisor computes the next"
    next_in(s, HOUR)
    s.started()
    s.ready()
    s.ends(0)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Finished")
    assert s.instance.standing.message == "completed with code 0; next run 2001-09-09 03:46 UTC"
    assert s.instance.standing.outcome is Outcome.COMPLETED, "dependents may start"
    (launch,) = s.wait(HOUR)
    assert isinstance(launch, Launch)


def test_the_restart_policy_holds_for_each_run() -> None:
    s = scheduled()
    s.wait(HOUR)
    next_in(s, HOUR)
    s.started()
    s.ready()
    s.ends(3)
    assert s.state() is State.START_AT
    (launch,) = s.until_state_deadline()
    assert isinstance(launch, Launch)
    s = scheduled(RestartWhen.NEVER)
    s.wait(HOUR)
    next_in(s, HOUR)
    s.started()
    s.ready()
    s.ends(3)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")
    assert "next run" in s.instance.standing.message
    (launch,) = s.wait(HOUR)
    assert isinstance(launch, Launch), "the next time it runs again"


def test_runs_never_overlap() -> None:
    s = scheduled()
    s.wait(HOUR)
    s.started()
    s.ready()
    next_in(s, HOUR)
    assert s.wait(HOUR) == []
    (entry,) = [e for e in s.entries if e.reason == "RunLeftOut"]
    assert entry.severity is Severity.WARNING
    assert entry.message.endswith("is left out: the run before it goes on")


@pytest.mark.parametrize(("late", "runs"), [(59.0, True), (61.0, False)])
def test_a_late_run_is_made_up_for_within_the_catch_up_time(late: float, *, runs: bool) -> None:
    s = scheduled()
    assert bool(s.wait(HOUR + late)) is runs
    assert ("RunLeftOut" in s.reasons()) is not runs


def test_nothing_runs_while_held_or_down() -> None:
    s = scheduled()
    s.instance = holds.hold({"a": s.instance}, ["a"], Hold(s.now, None))[0]["a"]
    assert s.wait(HOUR) == []
    assert s.entries[-1].message.endswith("the instance is held")
    s = scheduled(target=Target.DOWN)
    assert s.wait(HOUR) == []
    assert "RunLeftOut" not in s.reasons()


def test_operators_need_not_wait_for_the_time() -> None:
    s = scheduled()
    s.instance = plan.restart({"a": s.instance}, ["a"])["a"]
    (launch,) = s.decide()
    assert isinstance(launch, Launch)
    s = scheduled()
    assert s.target(Target.UP) == [], "up arms the schedule"
    s.instance = jobs.run_once(s.instance, ())
    (launch,) = s.decide()
    assert isinstance(launch, Launch)


def test_a_clock_that_is_set_is_noticed_within_a_minute() -> None:
    s = scheduled()
    assert next_wake(s.instance, s.now) == s.now.mono + RECHECK
    later = replace(s.now, wall=s.now.wall + HOUR - 5.0)
    assert next_wake(s.instance, later) == pytest.approx(s.now.mono + 5.0)


def test_the_next_daemon_knows_the_time_unless_the_schedule_changed() -> None:
    s = scheduled()
    history = history_of(s.instance)
    assert history is not None
    recovered = with_history(new_instance(s.instance.spec), history, s.now)
    assert recovered.observed.next_run == s.now.wall + HOUR
    other = replace(s.instance.spec, schedule=Schedule("1 * * * *"))
    assert with_history(new_instance(other), history, s.now).observed.next_run is None
