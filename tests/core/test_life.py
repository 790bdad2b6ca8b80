"""The life of one instance, sentence by sentence."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hostmanager_server.core import plan
from hostmanager_server.core.actions import Launch, Remove
from hostmanager_server.core.events import Exited, ExitStatus, Gone, Ready, RunKey, Started, StartFailed
from hostmanager_server.core.model import Phase, Run, State, StopStage
from hostmanager_server.core.spec import (
    Backoff,
    EnvFile,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    Target,
)

from tests.core.instances import with_fields
from tests.core.script import PROCESS, make, stops

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL


# --- starting


def test_up_goes_through_start_and_wait_start_to_up() -> None:
    s = make()
    assert s.state() is State.DOWN
    (launch,) = s.decide()
    assert launch == Launch(RunKey("a", 1), s.i.spec)
    assert s.state() is State.WAIT_START
    assert s.started() == []
    assert s.state() is State.WAIT_START
    assert s.i.observed.run is not None
    assert s.i.observed.run.pid == 4711
    assert s.ready() == []
    assert s.state() is State.UP
    assert s.i.standing.reason == "Running"
    assert s.due() is None, "nothing is to be done as long as it runs"


def test_a_start_waits_for_what_it_depends_on() -> None:
    s = make()
    assert s.facts(waiting_for=("b", "c")) == []
    assert (s.state(), s.i.standing.reason) == (State.START, "WaitingForDependencies")
    assert "b, c" in s.i.standing.message
    (launch,) = s.facts()
    assert isinstance(launch, Launch)


def test_a_start_that_waits_is_given_up_when_it_is_no_longer_wanted() -> None:
    s = make()
    s.facts(waiting_for=("b",))
    assert s.target(Target.DOWN) == []
    assert s.state() is State.DOWN
    assert s.i.settled


def test_a_start_that_runs_out_of_time_is_taken_down_before_it_is_tried_again() -> None:
    s = make(start_timeout=15.0)
    s.decide()
    s.started()
    assert s.due() == pytest.approx(15.0)
    assert stops(s.wait(15.0)) == [(INT, False)]
    assert (s.state(), s.i.standing.reason) == (State.WAIT_DEAD, "Stopping")
    assert s.gone() == [], "not yet: 5 s after the time-out"
    assert s.state() is State.START_AT
    assert s.due() == pytest.approx(5.0)
    assert s.wait(4.9) == []
    (launch,) = s.wait(0.2)
    assert launch == Launch(RunKey("a", 2), s.i.spec)
    assert s.i.standing.failures == 1, "the end that was asked for is not a second failure"


def test_a_start_that_failed_is_tried_again_after_the_backoff() -> None:
    s = make()
    s.decide()
    assert s.start_failed("no such file: /bin/agent") == []
    assert (s.state(), s.i.standing.reason) == (State.START_AT, "BackingOff")
    assert "no such file: /bin/agent" in s.i.standing.message
    assert s.due() == pytest.approx(0.1)
    assert "StartFailed" in s.reasons()
    (launch,) = s.wait(0.1)
    assert isinstance(launch, Launch)


def test_a_start_that_fails_at_once_does_not_spin_without_backoff() -> None:
    s = make(restart=RestartPolicy(backoff=Backoff(initial=0.0)))
    s.decide()
    assert s.start_failed() == []
    assert s.state() is State.START_AT
    assert s.due() == pytest.approx(0.1)


def test_a_failed_start_without_a_reason_is_a_failed_start() -> None:
    s = make()
    s.decide()
    s.start_failed("")
    assert "StartFailed" in s.reasons()
    assert s.i.standing.failures == 1


# --- losing


def test_a_lost_instance_goes_to_start_at_and_comes_back() -> None:
    s = make().up()
    assert s.ends(3) == []
    assert (s.state(), s.i.standing.reason) == (State.START_AT, "BackingOff")
    assert "code 3" in s.i.standing.message
    assert s.due() == pytest.approx(0.1)
    (launch,) = s.wait(0.1)
    assert launch == Launch(RunKey("a", 2), s.i.spec)
    assert s.i.standing.restarts == 1
    s.started()
    s.ready()
    assert s.state() is State.UP


def test_with_no_backoff_the_replacement_is_launched_in_the_same_decision() -> None:
    s = make(restart=RestartPolicy(backoff=Backoff(initial=0.0))).up()
    (launch,) = s.ends(1)
    assert launch == Launch(RunKey("a", 2), s.i.spec)


def test_what_a_crash_left_behind_is_ended_before_the_restart() -> None:
    s = make().up()
    assert stops(s.main_ends(1)) == [(TERM, True)]
    assert (s.state(), s.i.standing.reason) == (State.WAIT_DEAD, "CleaningUp")
    assert stops(s.wait(5.0)) == [(KILL, True)]
    (launch,) = s.gone()
    assert isinstance(launch, Launch), "the backoff of 0.1 s is long over"
    assert s.i.standing.failures == 1


def test_a_crash_before_it_was_ready_counts_as_a_failure() -> None:
    s = make()
    s.decide()
    s.started()
    s.ends(127)
    assert s.state() is State.START_AT
    assert "command not found" in s.i.standing.message


def test_what_a_failed_start_left_behind_is_ended_first() -> None:
    s = make()
    s.decide()
    s.started()
    assert stops(s.main_ends(1)) == [(TERM, True)]
    assert s.state() is State.WAIT_DEAD


def test_an_exit_that_nobody_saw_counts_as_a_failure_of_unknown_status() -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up()
    s.gone()
    assert s.state() is State.START_AT
    assert s.i.observed.last_exit is not None
    assert s.i.observed.last_exit.status == ExitStatus()
    assert "status unknown" in s.i.standing.message


# --- restart policy


@pytest.mark.parametrize(
    ("when", "code", "comes_back"),
    [
        (RestartWhen.ALWAYS, 0, True),
        (RestartWhen.ALWAYS, 1, True),
        (RestartWhen.ON_FAILURE, 0, False),
        (RestartWhen.ON_FAILURE, 1, True),
        (RestartWhen.NEVER, 0, False),
        (RestartWhen.NEVER, 1, False),
    ],
)
def test_the_restart_policy_says_what_comes_back(when: RestartWhen, code: int, comes_back: bool) -> None:
    s = make(restart=RestartPolicy(when)).up()
    s.ends(code)
    assert s.state() is (State.START_AT if comes_back else State.DOWN)
    assert s.i.standing.finished is not comes_back
    if not comes_back:
        assert s.i.standing.reason == "Finished"
        assert f"code {code}" in s.i.standing.message
        assert s.i.settled, "nothing more will happen by itself"
        assert bool(s.i.standing.fail_times) is (code != 0), "an exit with 0 is no failure here"


def test_one_that_is_never_restarted_is_finished_after_a_failed_start() -> None:
    s = make(restart=RestartPolicy(RestartWhen.NEVER))
    s.decide()
    s.start_failed()
    assert (s.state(), s.i.standing.reason, s.i.standing.finished) == (State.DOWN, "Finished", True)
    assert len(s.i.standing.fail_times) == 1


def test_one_that_is_never_restarted_is_taken_down_when_its_start_runs_out_of_time() -> None:
    s = make(restart=RestartPolicy(RestartWhen.NEVER))
    s.decide()
    s.started()
    assert stops(s.until_state_deadline()) == [(INT, False)]
    assert s.ends() == []
    assert (s.state(), s.i.standing.reason) == (State.DOWN, "Finished")
    assert "not ready after 15 s" in s.i.standing.message


def test_what_a_finished_one_left_behind_is_ended_too() -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up()
    assert stops(s.main_ends(0)) == [(TERM, True)]
    assert s.gone() == []
    assert (s.state(), s.i.standing.reason) == (State.DOWN, "Finished")


@pytest.mark.parametrize("ask", ["up", "restart"])
def test_a_finished_one_starts_again_when_asked(ask: str) -> None:
    s = make(restart=RestartPolicy(RestartWhen.NEVER)).up()
    s.ends(0)
    (launch,) = s.target(Target.UP) if ask == "up" else s.restart()
    assert isinstance(launch, Launch)
    assert s.i.standing.restarts == 0, "somebody asked for it"


# --- backoff


def test_the_backoff_doubles_up_to_its_maximum() -> None:
    s = make(start_timeout=1e6).up()
    delays = []
    for _ in range(12):
        s.ends(1)
        assert s.i.standing.deadline is not None
        delays.append(round(s.i.standing.deadline.mono - s.now.mono, 6))
        s.until_state_deadline()
        s.started()
        s.ready()
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_the_backoff_is_forgotten_after_a_minute_up_and_not_before() -> None:
    s = make().up()
    s.crash_and_return()
    s.crash_and_return()
    assert s.i.standing.failures == 2
    assert s.due() == pytest.approx(60.0)
    s.wait(59.9)
    assert s.i.standing.failures == 2
    s.wait(0.2)
    assert s.i.standing.failures == 0
    s.ends(1)
    assert s.due() == pytest.approx(0.1)


def test_a_huge_number_of_failures_does_not_overflow() -> None:
    assert Backoff().delay(100_000) == 30.0
    assert Backoff(initial=0.0).delay(5) == 0.0


def test_backing_off_ends_at_once_when_up_is_asked_for_again() -> None:
    s = make().up()
    s.ends(1)
    (launch,) = s.target(Target.UP)
    assert isinstance(launch, Launch)
    assert s.i.standing.restarts == 0


def test_only_launches_nobody_asked_for_count_as_restarts() -> None:
    s = make().up()
    s.crash_and_return()
    assert s.i.standing.restarts == 1
    s.restart()
    s.ends()
    assert s.i.standing.runs == 3
    assert s.i.standing.restarts == 1


# --- stopping


def test_a_stop_escalates_from_int_to_term_to_kill_each_after_its_own_grace() -> None:
    s = make(stop=StopPolicy(grace=10.0, term_grace=5.0)).up()
    assert stops(s.target(Target.DOWN)) == [(INT, False)]
    assert (s.state(), s.i.standing.reason) == (State.WAIT_DEAD, "Stopping")
    assert stops(s.wait(9.9)) == []
    assert stops(s.wait(0.2)) == [(TERM, True)]
    assert s.i.standing.reason == "StopEscalated"
    assert stops(s.wait(4.9)) == []
    assert stops(s.wait(0.2)) == [(KILL, True)]
    assert s.state() is State.WAIT_DEAD, "until the tree is really gone"
    notes = len(s.notes)
    assert stops(s.wait(5.0)) == [(KILL, True)], "until the kernel lets go"
    assert len(s.notes) == notes, "in silence"
    s.ends()
    assert (s.state(), s.i.standing.reason) == (State.DOWN, "Stopped")
    assert s.i.settled
    assert s.i.standing.fail_times == ()


@pytest.mark.parametrize(
    ("signum", "expected"),
    [
        (signal.SIGQUIT, [(signal.SIGQUIT, False), (TERM, True), (KILL, True)]),
        (TERM, [(TERM, True), (KILL, True)]),
        (KILL, [(KILL, True), (KILL, True)]),
    ],
)
def test_the_stop_signal_is_the_first_stage(signum: int, expected: list[tuple[int, bool]]) -> None:
    s = make(stop=StopPolicy(signum, grace=1.0, term_grace=1.0)).up()
    sent = stops(s.target(Target.DOWN))
    while len(sent) < len(expected):
        sent += stops(s.until_state_deadline())
    assert sent == expected


def test_down_is_not_reached_before_the_whole_tree_is_gone() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert stops(s.main_ends(0)) == [(TERM, True)], "nobody is left to pass the signal on"
    assert s.state() is State.WAIT_DEAD
    s.wait(1.0)
    assert s.state() is State.WAIT_DEAD
    s.gone()
    assert s.state() is State.DOWN


def test_a_stop_during_the_launch_is_sent_and_waited_for() -> None:
    s = make()
    s.decide()
    assert stops(s.target(Target.DOWN)) == [(INT, False)]
    s.started()
    assert s.state() is State.WAIT_DEAD
    s.ends()
    assert s.state() is State.DOWN


def test_a_start_that_fails_while_it_is_being_stopped_is_down() -> None:
    s = make()
    s.decide()
    s.target(Target.DOWN)
    s.start_failed()
    assert s.state() is State.DOWN
    assert s.i.standing.failures == 0


def test_a_crash_during_shutdown_is_not_restarted() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert s.ends(139) == []
    assert s.state() is State.DOWN
    assert s.i.observed.last_exit is not None
    assert s.i.observed.last_exit.expected
    assert s.i.standing.fail_times == ()


def test_it_stays_up_until_its_dependents_are_down() -> None:
    s = make().up()
    s.i = with_fields(s.i, held_by=("b",))
    assert s.target(Target.DOWN) == []
    assert (s.state(), s.i.standing.reason) == (State.UP, "WaitingForDependents")
    assert stops(s.facts()) == [(INT, False)]


def test_one_that_is_held_and_wanted_again_goes_on_running() -> None:
    s = make().up()
    s.crash_and_return()
    s.facts(held_by=("b",))
    s.target(Target.DOWN)
    assert s.i.standing.reason == "WaitingForDependents"
    assert s.target(Target.UP) == []
    assert (s.state(), s.i.standing.reason) == (State.UP, "Running")
    s.facts()
    assert s.due() == pytest.approx(60.0), "the backoff is still to be forgotten"


# --- a target can change at any moment


def test_up_during_a_stop_starts_it_again_once_it_is_gone() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert s.target(Target.UP) == []
    assert s.state() is State.WAIT_DEAD
    (launch,) = s.ends()
    assert launch == Launch(RunKey("a", 2), s.i.spec)


def test_down_while_backing_off_is_down_at_once() -> None:
    s = make().up()
    s.ends(1)
    assert s.target(Target.DOWN) == []
    assert s.state() is State.DOWN
    assert s.wait(100.0) == []
    assert s.state() is State.DOWN


def test_up_and_down_before_a_decision_is_down_and_nothing_else() -> None:
    s = make(Target.DOWN)
    s.i = plan.set_targets({"a": s.i}, [plan.TargetChange("a", Target.UP)])["a"]
    assert s.target(Target.DOWN) == []
    assert s.state() is State.DOWN


def test_a_start_failure_with_nothing_wanted_any_more_is_down() -> None:
    s = make()
    s.decide()
    key = s.i.run_key()
    s.i = plan.set_targets({"a": s.i}, [plan.TargetChange("a", Target.DOWN)])["a"]
    assert s.see(StartFailed(key, "no", s.now)) == []
    assert (s.state(), s.i.standing.reason, s.i.standing.message) == (
        State.DOWN,
        "Stopped",
        "start failed: no",
    )


# --- restart on request


def test_a_restart_goes_down_and_up_again_and_keeps_the_target() -> None:
    s = make().up()
    assert stops(s.restart()) == [(INT, False)]
    assert s.i.wanted.target is Target.UP
    assert s.i.standing.observed_generation < s.i.wanted.generation
    (launch,) = s.ends()
    assert launch == Launch(RunKey("a", 2), s.i.spec)
    assert not s.i.wanted.restart
    s.started()
    s.ready()
    assert s.i.standing.observed_generation == s.i.wanted.generation
    assert s.i.standing.fail_times == ()


def test_down_overrides_a_restart_under_way() -> None:
    s = make().up()
    s.restart()
    s.target(Target.DOWN)
    assert s.ends() == []
    assert s.state() is State.DOWN


def test_a_restart_while_backing_off_starts_at_once() -> None:
    s = make().up()
    s.ends(1)
    (launch,) = s.restart()
    assert isinstance(launch, Launch)


def test_a_restart_is_over_when_the_command_is_lost_meanwhile() -> None:
    s = make().up()
    s.restart()
    s.i = replace(s.i, spec=replace(s.i.spec, process=None, problem="no command"))
    s.ends()
    assert s.state() is State.UNKNOWN
    assert not s.i.wanted.restart


# --- not operable


def test_without_a_command_it_is_not_operable_and_says_why() -> None:
    s = make(process=None, problem="agent class 'Agent' has no command")
    assert s.decide() == []
    assert (s.state(), s.i.standing.reason) == (State.UNKNOWN, "NotOperable")
    assert s.i.standing.message == "agent class 'Agent' has no command"
    assert not s.i.operable
    assert s.due() is None


def test_it_starts_when_a_command_is_found() -> None:
    s = make(process=None, problem="no command")
    s.decide()
    s.i = replace(s.i, spec=replace(s.i.spec, process=PROCESS))
    (launch,) = s.decide()
    assert isinstance(launch, Launch)


def test_the_message_follows_the_problem() -> None:
    s = make(process=None, problem="one")
    s.decide()
    s.i = replace(s.i, spec=replace(s.i.spec, process=None, problem="two"))
    s.decide()
    assert s.i.standing.message == "two"


def test_one_that_loses_its_command_goes_on_running_and_is_then_not_operable() -> None:
    s = make().up()
    s.i = replace(s.i, spec=replace(s.i.spec, process=None, problem="no command"))
    assert s.decide() == []
    assert s.state() is State.UP
    assert s.i.restart_required
    s.ends(1)
    assert s.state() is State.UNKNOWN


def test_waiting_for_a_dependency_it_may_lose_its_command() -> None:
    s = make()
    s.facts(waiting_for=("b",))
    s.i = replace(s.i, spec=replace(s.i.spec, process=None, problem="no command"))
    s.decide()
    assert s.state() is State.UNKNOWN


def test_what_is_found_running_is_up_also_without_a_command() -> None:
    s = make(Target.DOWN, process=None, problem="no command")
    s.decide()
    s.i = with_fields(s.i, run=Run(1, Phase.READY, PROCESS, 4711), runs=1)
    assert stops(s.decide()) == [(INT, False)]
    assert s.state() is State.WAIT_DEAD


@pytest.mark.parametrize("before", [State.START_AT, State.START])
def test_nothing_is_launched_beside_what_is_found_running(before: State) -> None:
    s = make()
    if before is State.START_AT:
        s.up()
        s.ends(1)
    else:
        s.facts(waiting_for=("b",))
    assert s.state() is before
    number = s.i.standing.runs + 1
    s.i = with_fields(s.i, run=Run(number, Phase.READY, PROCESS, 4711), runs=number, waiting_for=())
    assert s.wait(100.0) == []
    assert s.state() is State.UP


def test_what_is_found_running_after_failures_forgets_them_in_time() -> None:
    s = make().up()
    s.ends(1)
    s.i = with_fields(s.i, run=Run(2, Phase.READY, PROCESS, 4711), runs=2)
    s.decide()
    assert s.i.standing.failures == 1
    s.wait(60.0)
    assert s.i.standing.failures == 0


# --- passive


def test_a_passive_one_mirrors_what_is() -> None:
    s = make(Target.PASSIVE)
    assert s.decide() == []
    assert s.state() is State.DOWN
    s.i = with_fields(s.i, run=Run(1, Phase.READY, PROCESS, 4711), runs=1)
    assert s.decide() == []
    assert s.state() is State.UP
    assert s.ends(1) == []
    assert s.state() is State.DOWN
    assert s.i.standing.fail_times == ()
    assert s.due() is None


def test_what_becomes_passive_while_starting_is_left_to_run() -> None:
    s = make()
    s.decide()
    s.started()
    assert s.target(Target.PASSIVE) == []
    assert s.state() is State.UP
    assert s.wait(100.0) == []


def test_nothing_of_a_passive_one_is_ended_when_its_main_process_does() -> None:
    s = make().up()
    s.target(Target.PASSIVE)
    assert s.main_ends(1) == []
    assert s.state() is State.UP
    assert s.gone() == []
    assert s.state() is State.DOWN


def test_a_passive_one_is_started_on_request_and_then_only_observed_again() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.decide()
    (launch,) = s.target(Target.UP)
    assert isinstance(launch, Launch)
    s.started()
    s.ready()
    assert (s.state(), s.i.wanted.target) == (State.UP, Target.PASSIVE)
    assert s.i.standing.observed_generation == s.i.wanted.generation
    assert s.ends(1) == []
    assert s.state() is State.DOWN


def test_a_passive_one_is_stopped_on_request_and_then_only_observed_again() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.target(Target.UP)
    s.started()
    s.ready()
    assert stops(s.target(Target.DOWN)) == [(INT, False)]
    s.ends()
    assert (s.state(), s.i.wanted.target) == (State.DOWN, Target.PASSIVE)


def test_a_passive_one_whose_start_fails_is_not_tried_again() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.target(Target.UP)
    assert s.start_failed() == []
    assert (s.state(), s.i.wanted.target) == (State.DOWN, Target.PASSIVE)
    assert s.i.standing.observed_generation == s.i.wanted.generation
    assert s.due() is None


def test_a_passive_one_whose_start_runs_out_of_time_is_left_as_it_is() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.target(Target.UP)
    s.started()
    assert s.until_state_deadline() == []
    assert (s.state(), s.i.wanted.target) == (State.UP, Target.PASSIVE)


# --- leaving the list


def test_a_retired_one_goes_down_and_then_leaves_the_list() -> None:
    s = make().up()
    s.i = plan.retire(s.i)
    assert stops(s.decide()) == [(INT, False)]
    assert not s.removed
    assert s.ends() == [Remove("a")]


@pytest.mark.parametrize("process", [None, PROCESS])
def test_a_retired_one_that_is_down_leaves_at_once(process: object) -> None:
    s = make(Target.DOWN, process=process)
    s.decide()
    s.i = plan.retire(s.i)
    assert s.decide() == [Remove("a")]


def test_a_retired_one_that_crashes_is_not_restarted() -> None:
    s = make().up()
    s.i = plan.retire(s.i)
    assert s.ends(1) == [Remove("a")]


# --- events


def test_events_of_an_older_run_are_ignored() -> None:
    s = make().up()
    s.crash_and_return()
    before = s.i
    old = RunKey("a", 1)
    s.see(
        Exited(old, ExitStatus(1), s.now),
        Gone(old, s.now),
        Ready(old, s.now),
        Started(old, 1, s.now),
        StartFailed(old, "late", s.now),
    )
    assert s.i == before


def test_doubled_events_change_nothing() -> None:
    s = make().up()
    key = s.i.run_key()
    before = s.i
    s.see(Started(key, 99, s.now), Ready(key, s.now))
    assert s.i == before
    s.main_ends(1)
    before = s.i
    s.see(Exited(key, ExitStatus(2), s.now), Ready(key, s.now), Started(key, 99, s.now))
    assert s.i == before


def test_a_start_that_read_a_newer_file_needs_no_restart() -> None:
    s = make()
    spec = replace(s.i.spec, process=replace(PROCESS, env_files=(EnvFile("/f", "old"),)))
    s.i = replace(s.i, spec=spec)
    s.decide()
    read = replace(PROCESS, env_files=(EnvFile("/f", "new"),))
    s.see(Started(s.i.run_key(), 99, s.now, read), Ready(s.i.run_key(), s.now))
    assert s.i.spec.process == read
    assert not s.i.restart_required
    s.i = replace(s.i, spec=replace(spec, process=replace(PROCESS, env_files=(EnvFile("/f", "newer"),))))
    assert s.i.restart_required


def test_a_file_that_cannot_be_read_calls_for_no_restart() -> None:
    s = make()
    spec = replace(s.i.spec, process=replace(PROCESS, env_files=(EnvFile("/f", "old"),)))
    s.i = replace(s.i, spec=spec)
    s.decide()
    s.see(Started(s.i.run_key(), 99, s.now), Ready(s.i.run_key(), s.now))
    unread = replace(PROCESS, env_files=(EnvFile("/f"),))
    s.i = replace(s.i, spec=replace(spec, process=unread))
    assert not s.i.restart_required
    s.i = replace(s.i, spec=replace(spec, process=replace(unread, argv=("other",))))
    assert s.i.restart_required
    s.i = replace(s.i, spec=replace(spec, process=replace(PROCESS, env_files=(EnvFile("/g"),))))
    assert s.i.restart_required


def test_a_config_that_was_read_during_a_start_counts() -> None:
    s = make()
    s.decide()
    changed = replace(s.i.spec, process=replace(PROCESS, argv=("other",)))
    s.i = replace(s.i, spec=changed)
    s.see(Started(s.i.run_key(), 99, s.now, replace(PROCESS, env_files=(EnvFile("/f", "new"),))))
    assert s.i.spec == changed
    assert s.i.restart_required


def test_ready_before_started_is_up_with_its_pid() -> None:
    s = make()
    s.decide()
    key = s.i.run_key()
    s.see(Ready(key, s.now), Started(key, 99, s.now))
    assert s.state() is State.UP
    assert s.i.observed.run is not None
    assert s.i.observed.run.pid == 99


# --- generations


def test_the_observed_generation_follows_once_the_request_is_carried_out() -> None:
    s = make()
    s.decide()
    assert (s.i.wanted.generation, s.i.standing.observed_generation) == (1, 0)
    s.started()
    s.ready()
    assert s.i.standing.observed_generation == 1
    s.target(Target.DOWN)
    assert (s.i.wanted.generation, s.i.standing.observed_generation) == (2, 1)
    s.main_ends()
    assert s.i.standing.observed_generation == 1
    s.gone()
    assert s.i.standing.observed_generation == 2
    s.target(Target.DOWN)
    assert (s.i.wanted.generation, s.i.standing.observed_generation) == (3, 3), (
        "asked for what is: done at once"
    )


def test_a_crash_does_not_take_back_what_was_observed() -> None:
    s = make().up()
    s.ends(1)
    assert s.i.standing.observed_generation == s.i.wanted.generation


def test_the_stage_of_a_stop_is_kept_with_the_run() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert s.i.observed.run is not None
    assert s.i.observed.run.stop_stage is StopStage.SIGNAL
