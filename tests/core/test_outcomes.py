"""Starts that count as up only after a while, and ends that no restart follows."""

from __future__ import annotations

import pytest
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.events import Exited, ExitStatus, Gone, Ready, Started
from hostmanager_server.core.facts import describe
from hostmanager_server.core.model import Outcome, State
from hostmanager_server.core.spec import Backoff, RestartPolicy, RestartWhen, Target

from tests.core.scripted_instance import ScriptedInstance, make, stops

INT = 2


def started(instance: ScriptedInstance) -> None:
    key = instance.instance.run_key()
    instance.post(Started(key, 4711, instance.now), Ready(key, instance.now))


def test_an_instance_is_up_only_after_its_run_has_lasted() -> None:
    s = make(up_after=1.0)
    s.decide()
    started(s)
    assert (s.state(), s.instance.standing.message) == (State.WAIT_START, "started; up after 1 s")
    assert s.due() == pytest.approx(1.0)
    assert not s.instance.settled, "a wait for the target goes on"
    s.wait(0.9)
    assert s.state() is State.WAIT_START
    s.wait(0.1)
    assert s.state() is State.UP
    assert s.instance.settled


def test_an_exit_at_once_never_counts_as_up() -> None:
    s = make(up_after=1.0)
    s.decide()
    for _ in range(5):
        started(s)
        s.ends(1)
        assert s.state() is State.START_AT
        assert not s.instance.settled
        s.until_state_deadline()
    assert "Up" not in s.reasons()


def test_a_readiness_probe_alone_does_not_make_a_young_run_up() -> None:
    s = make(up_after=3.0, start_timeout=2.0)
    s.decide()
    s.started()
    s.wait(1.0)
    s.ready()
    assert s.state() is State.WAIT_START
    s.wait(1.5)
    assert s.state() is State.WAIT_START, "a ready run has no start timeout"
    s.wait(0.5)
    assert s.state() is State.UP


def test_a_passive_instance_is_up_at_once() -> None:
    s = make(up_after=1.0, initial_target=Target.PASSIVE)
    s.target(Target.UP)
    s.started()
    assert s.state() is State.WAIT_START
    s.ready()
    s.wait(1.0)
    assert s.state() is State.UP


def test_giving_up_ends_restarts_until_a_request() -> None:
    policy = RestartPolicy(backoff=Backoff(initial=1.0, factor=1.0), give_up_after=3)
    s = make(restart=policy)
    s.decide()
    for _ in range(2):
        started(s)
        s.ends(1)
        assert s.state() is State.START_AT
        s.until_state_deadline()
    started(s)
    s.ends(1)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")
    assert s.instance.standing.message == "last exit: code 1; gave up after 3 failures in a row"
    assert s.entries[-1].reason == "GaveUp"
    assert s.entries[-1].severity is Severity.ERROR
    assert s.wait(1000.0) == [], "no further attempt"
    s.target(Target.UP)
    assert s.state() is State.WAIT_START
    started(s)
    s.ends(1)
    assert s.state() is State.START_AT, "a request begins a new count"


def test_a_start_that_fails_counts_towards_giving_up() -> None:
    s = make(restart=RestartPolicy(give_up_after=1))
    s.decide()
    s.start_failed("cannot execute 'x'")
    assert (s.state(), s.instance.standing.outcome) == (State.DOWN, Outcome.FAILED)
    assert "cannot execute 'x'" in s.instance.standing.message


def test_a_timed_out_start_is_stopped_before_giving_up() -> None:
    s = make(restart=RestartPolicy(give_up_after=1))
    s.decide()
    s.started()
    assert stops(s.until_state_deadline()) == [(INT, False)]
    assert s.ends() == []
    assert (s.state(), s.instance.standing.outcome) == (State.DOWN, Outcome.FAILED)


def test_success_without_restart_is_no_warning() -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up()
    s.ends(0)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Finished")
    assert s.instance.settled
    assert [(e.reason, e.severity) for e in s.entries[-2:]] == [
        ("Exited", Severity.INFO),
        ("Finished", Severity.INFO),
    ]


def test_a_program_in_the_background_is_recognised_and_not_restarted_for_ever() -> None:
    s = make()
    s.decide()
    for _ in range(2):
        started(s)
        s.wait(0.2)
        s.main_ends(0)
        assert s.state() is State.WAIT_DEAD
        s.gone()
        assert s.entries[-1].reason != "GaveUp"
        s.until_state_deadline()
    started(s)
    s.main_ends(0)
    s.gone()
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")
    assert "foreground" in s.instance.standing.message
    assert s.reasons().count("Backgrounded") == 3


def test_an_ordinary_end_resets_the_count_of_background_runs() -> None:
    s = make()
    s.decide()
    for code in (0, 0, 1, 0, 0):
        started(s)
        s.main_ends(code)
        s.gone()
        assert s.state() is State.START_AT
        s.until_state_deadline()


def test_a_late_exit_that_leaves_processes_is_no_program_in_the_background() -> None:
    s = make().up()
    s.wait(3600.0)
    s.main_ends(0)
    assert "Backgrounded" not in s.reasons()


def test_a_dependency_that_is_still_starting_waits_for_its_dependents() -> None:
    s = make(up_after=1.0)
    s.decide()
    started(s)
    s.neighbours(held_by=("top",))
    assert s.target(Target.DOWN) == []
    assert (s.state(), s.instance.standing.reason) == (State.WAIT_START, "WaitingForDependents")
    assert stops(s.neighbours()) == [(INT, False)]


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_stop_that_waited_can_be_taken_back(*, is_ready: bool) -> None:
    s = make(up_after=1.0)
    s.decide()
    s.started()
    if is_ready:
        s.ready()
    s.neighbours(held_by=("top",))
    s.target(Target.DOWN)
    s.target(Target.UP)
    assert s.instance.standing.reason == "Starting"
    assert s.instance.standing.deadline is not None
    if not is_ready:
        s.ready()
    s.wait(1.0)
    assert s.state() is State.UP


@pytest.mark.parametrize(
    ("status", "completes"),
    [
        (ExitStatus(code=0), True),
        (ExitStatus(code=2), True),
        (ExitStatus(signal=15), True),
        (ExitStatus(code=15), False),
        (ExitStatus(signal=9), False),
        (ExitStatus(), False),
    ],
)
def test_success_codes_decide_whether_a_one_shot_has_completed(
    status: ExitStatus, *, completes: bool
) -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE), success_codes=(-15, 2))
    s.decide()
    started(s)
    key = s.instance.run_key()
    s.post(Exited(key, status, s.now), Gone(key, s.now))
    outcome = Outcome.COMPLETED if completes else None
    assert (s.instance.standing.outcome, s.instance.standing.failures) == (outcome, int(not completes))
    if completes:
        assert s.instance.standing.message == f"completed with {describe(status)}"
        assert all(entry.severity is Severity.INFO for entry in s.entries)
