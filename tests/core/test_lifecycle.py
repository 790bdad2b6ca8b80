"""The state machine of one instance."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hostmanager_server.core import plan
from hostmanager_server.core.actions import Launch, Remove
from hostmanager_server.core.events import Exited, ExitStatus, Gone, Ready, RunKey, Started, StartFailed
from hostmanager_server.core.facts import describe
from hostmanager_server.core.model import Outcome, Phase, Run, State, StopStage
from hostmanager_server.core.spec import (
    Backoff,
    EnvFile,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    Target,
)

from tests.core.instances import with_fields
from tests.core.scripted_instance import PROCESS, make, stops

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL


# --- starting


def test_up_goes_through_start_and_wait_start_to_up() -> None:
    s = make()
    assert s.state() is State.DOWN
    (launch,) = s.decide()
    assert launch == Launch(RunKey("a", 1), s.instance.spec)
    assert s.state() is State.WAIT_START
    assert s.started() == []
    assert s.state() is State.WAIT_START
    assert s.instance.observed.run is not None
    assert s.instance.observed.run.pid == 4711
    assert s.ready() == []
    assert s.state() is State.UP
    assert s.instance.standing.reason == "Running"
    assert s.due() is None, "no deadline while the instance is up"


def test_a_start_waits_for_what_it_depends_on() -> None:
    s = make()
    assert s.neighbours(waiting_for=("b", "c")) == []
    assert (s.state(), s.instance.standing.reason) == (State.START, "WaitingForDependencies")
    assert s.instance.standing.message == "waiting for b to be up, c to be up"
    (launch,) = s.neighbours()
    assert isinstance(launch, Launch)


def test_a_waiting_start_ends_when_the_target_is_down() -> None:
    s = make()
    s.neighbours(waiting_for=("b",))
    assert s.target(Target.DOWN) == []
    assert s.state() is State.DOWN
    assert s.instance.settled


def test_a_timed_out_start_is_stopped_before_the_next_attempt() -> None:
    s = make(start_timeout=15.0)
    s.decide()
    s.started()
    assert s.due() == pytest.approx(15.0)
    assert stops(s.wait(15.0)) == [(INT, False)]
    assert (s.state(), s.instance.standing.reason) == (State.WAIT_DEAD, "Stopping")
    assert s.gone() == [], "the next attempt waits for 5 s after the time-out"
    assert s.state() is State.START_AT
    assert s.due() == pytest.approx(5.0)
    assert s.wait(4.9) == []
    (launch,) = s.wait(0.2)
    assert launch == Launch(RunKey("a", 2), s.instance.spec)
    assert s.instance.standing.failures == 1, "a requested stop is no failure"


def test_a_failed_start_is_repeated_after_the_backoff() -> None:
    s = make()
    s.decide()
    assert s.start_failed("no such file: /bin/agent") == []
    assert (s.state(), s.instance.standing.reason) == (State.START_AT, "BackingOff")
    assert "no such file: /bin/agent" in s.instance.standing.message
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
    assert s.instance.standing.failures == 1


# --- crashes


def test_a_lost_instance_goes_to_start_at_and_comes_back() -> None:
    s = make().up()
    assert s.ends(3) == []
    assert (s.state(), s.instance.standing.reason) == (State.START_AT, "BackingOff")
    assert "code 3" in s.instance.standing.message
    assert s.due() == pytest.approx(0.1)
    (launch,) = s.wait(0.1)
    assert launch == Launch(RunKey("a", 2), s.instance.spec)
    assert s.instance.standing.restarts == 1
    s.started()
    s.ready()
    assert s.state() is State.UP


def test_with_no_backoff_the_replacement_is_launched_in_the_same_decision() -> None:
    s = make(restart=RestartPolicy(backoff=Backoff(initial=0.0))).up()
    (launch,) = s.ends(1)
    assert launch == Launch(RunKey("a", 2), s.instance.spec)


def test_the_rest_of_a_crashed_tree_is_stopped_before_the_restart() -> None:
    s = make().up()
    assert stops(s.main_ends(1)) == [(TERM, True)]
    assert (s.state(), s.instance.standing.reason) == (State.WAIT_DEAD, "CleaningUp")
    assert stops(s.wait(5.0)) == [(KILL, True)]
    (launch,) = s.gone()
    assert isinstance(launch, Launch), "the backoff of 0.1 s has passed"
    assert s.instance.standing.failures == 1


def test_a_crash_before_readiness_counts_as_a_failure() -> None:
    s = make()
    s.decide()
    s.started()
    s.ends(127)
    assert s.state() is State.START_AT
    assert "command not found" in s.instance.standing.message


def test_the_rest_of_a_failed_start_is_stopped_first() -> None:
    s = make()
    s.decide()
    s.started()
    assert stops(s.main_ends(1)) == [(TERM, True)]
    assert s.state() is State.WAIT_DEAD


def test_an_unobserved_exit_counts_as_a_failure_of_unknown_status() -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up()
    s.gone()
    assert s.state() is State.START_AT
    assert s.instance.observed.last_exit is not None
    assert s.instance.observed.last_exit.status == ExitStatus()
    assert "status unknown" in s.instance.standing.message


def test_the_last_output_of_a_run_stays_with_its_exit_and_out_of_the_messages() -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up()
    key = s.instance.run_key()
    s.post(Exited(key, ExitStatus(code=1), s.now, "Error: no sensor"), Gone(key, s.now))
    last_exit = s.instance.observed.last_exit
    assert last_exit is not None
    assert last_exit.last_output == "Error: no sensor"
    (exited,) = (entry for entry in s.entries if entry.reason == "Exited")
    assert exited.exit == last_exit
    assert "sensor" not in exited.message + s.instance.standing.message + last_exit.why


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ExitStatus(signal=11), "signal SIGSEGV"),
        (ExitStatus(signal=11, core_dumped=True), "signal SIGSEGV (core dumped)"),
        (ExitStatus(signal=25, limit="fsize"), "signal SIGXFSZ (limit 'fsize' reached)"),
        (
            ExitStatus(signal=24, core_dumped=True, limit="cpu"),
            "signal SIGXCPU (limit 'cpu' reached, core dumped)",
        ),
    ],
)
def test_the_words_of_an_end_name_the_limit_and_the_core_dump(status: ExitStatus, words: str) -> None:
    assert describe(status) == words


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
def test_the_restart_policy_decides_about_restarts(when: RestartWhen, code: int, *, comes_back: bool) -> None:
    s = make(restart=RestartPolicy(when)).up()
    s.ends(code)
    assert s.state() is (State.START_AT if comes_back else State.DOWN)
    assert (s.instance.standing.outcome is None) is comes_back
    if not comes_back:
        assert s.instance.standing.reason == ("Finished" if code == 0 else "Failed")
        assert f"code {code}" in s.instance.standing.message
        assert s.instance.settled, "no further change without a request"
        assert bool(s.instance.standing.fail_times) is (code != 0), (
            "exit code 0 is no failure under this policy"
        )


def test_without_restarts_a_failed_start_finishes_the_instance() -> None:
    s = make(restart=RestartPolicy(RestartWhen.NEVER))
    s.decide()
    s.start_failed()
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")
    assert s.instance.standing.outcome is Outcome.FAILED
    assert len(s.instance.standing.fail_times) == 1


def test_without_restarts_a_timed_out_start_is_stopped() -> None:
    s = make(restart=RestartPolicy(RestartWhen.NEVER))
    s.decide()
    s.started()
    assert stops(s.until_state_deadline()) == [(INT, False)]
    assert s.ends() == []
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")
    assert "not ready after 15 s" in s.instance.standing.message


def test_the_rest_of_a_finished_tree_is_stopped_too() -> None:
    s = make(restart=RestartPolicy(RestartWhen.ON_FAILURE)).up()
    assert stops(s.main_ends(0)) == [(TERM, True)]
    assert s.gone() == []
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Finished")


@pytest.mark.parametrize("ask", ["up", "restart"])
def test_a_finished_instance_starts_again_on_request(ask: str) -> None:
    s = make(restart=RestartPolicy(RestartWhen.NEVER)).up()
    s.ends(0)
    (launch,) = s.target(Target.UP) if ask == "up" else s.restart()
    assert isinstance(launch, Launch)
    assert s.instance.standing.restarts == 0, "an operator requested the start"


# --- backoff


def test_the_backoff_doubles_up_to_its_maximum() -> None:
    s = make(start_timeout=1e6).up()
    delays = []
    for _ in range(12):
        s.ends(1)
        assert s.instance.standing.deadline is not None
        delays.append(round(s.instance.standing.deadline.mono - s.now.mono, 6))
        s.until_state_deadline()
        s.started()
        s.ready()
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


def test_the_backoff_resets_after_a_minute_up_and_not_before() -> None:
    s = make().up()
    s.crash_and_return()
    s.crash_and_return()
    assert s.instance.standing.failures == 2
    assert s.due() == pytest.approx(60.0)
    s.wait(59.9)
    assert s.instance.standing.failures == 2
    s.wait(0.2)
    assert s.instance.standing.failures == 0
    s.ends(1)
    assert s.due() == pytest.approx(0.1)


def test_a_huge_number_of_failures_does_not_overflow() -> None:
    assert Backoff().delay(100_000) == 30.0
    assert Backoff(initial=0.0).delay(5) == 0.0


def test_a_request_for_up_ends_the_backoff_at_once() -> None:
    s = make().up()
    s.ends(1)
    (launch,) = s.target(Target.UP)
    assert isinstance(launch, Launch)
    assert s.instance.standing.restarts == 0


def test_only_launches_without_a_request_count_as_restarts() -> None:
    s = make().up()
    s.crash_and_return()
    assert s.instance.standing.restarts == 1
    s.restart()
    s.ends()
    assert s.instance.standing.runs == 3
    assert s.instance.standing.restarts == 1


# --- stopping


def test_a_stop_escalates_from_int_to_term_to_kill_each_after_its_own_grace() -> None:
    s = make(stop=StopPolicy(grace=10.0, term_grace=5.0)).up()
    assert stops(s.target(Target.DOWN)) == [(INT, False)]
    assert (s.state(), s.instance.standing.reason) == (State.WAIT_DEAD, "Stopping")
    assert stops(s.wait(9.9)) == []
    assert stops(s.wait(0.2)) == [(TERM, True)]
    assert s.instance.standing.reason == "StopEscalated"
    assert stops(s.wait(4.9)) == []
    assert stops(s.wait(0.2)) == [(KILL, True)]
    assert s.state() is State.WAIT_DEAD, "WAIT_DEAD lasts until the tree is gone"
    entries = len(s.entries)
    assert stops(s.wait(5.0)) == [(KILL, True)], "KILL is repeated"
    assert len(s.entries) == entries, "the event log has the first KILL only"
    s.ends()
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Stopped")
    assert s.instance.settled
    assert s.instance.standing.fail_times == ()


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
    assert stops(s.main_ends(0)) == [(TERM, True)], "no process can pass the signal on"
    assert s.state() is State.WAIT_DEAD
    s.wait(1.0)
    assert s.state() is State.WAIT_DEAD
    s.gone()
    assert s.state() is State.DOWN


def test_a_stop_during_the_launch_waits_for_the_end() -> None:
    s = make()
    s.decide()
    assert stops(s.target(Target.DOWN)) == [(INT, False)]
    s.started()
    assert s.state() is State.WAIT_DEAD
    s.ends()
    assert s.state() is State.DOWN


def test_a_start_that_fails_during_the_stop_is_down() -> None:
    s = make()
    s.decide()
    s.target(Target.DOWN)
    s.start_failed()
    assert s.state() is State.DOWN
    assert s.instance.standing.failures == 0


def test_a_crash_during_shutdown_is_not_restarted() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert s.ends(139) == []
    assert s.state() is State.DOWN
    assert s.instance.observed.last_exit is not None
    assert s.instance.observed.last_exit.expected
    assert s.instance.standing.fail_times == ()


def test_an_instance_stays_up_until_its_dependents_are_down() -> None:
    s = make().up()
    s.instance = with_fields(s.instance, held_by=("b",))
    assert s.target(Target.DOWN) == []
    assert (s.state(), s.instance.standing.reason) == (State.UP, "WaitingForDependents")
    assert stops(s.neighbours()) == [(INT, False)]


def test_a_held_instance_keeps_running_when_up_is_requested_again() -> None:
    s = make().up()
    s.crash_and_return()
    s.neighbours(held_by=("b",))
    s.target(Target.DOWN)
    assert s.instance.standing.reason == "WaitingForDependents"
    assert s.target(Target.UP) == []
    assert (s.state(), s.instance.standing.reason) == (State.UP, "Running")
    s.neighbours()
    assert s.due() == pytest.approx(60.0), "failures still count for a minute"


# --- a target can change at any moment


def test_up_during_a_stop_starts_the_instance_once_the_tree_is_gone() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert s.target(Target.UP) == []
    assert s.state() is State.WAIT_DEAD
    (launch,) = s.ends()
    assert launch == Launch(RunKey("a", 2), s.instance.spec)


def test_down_while_backing_off_is_down_at_once() -> None:
    s = make().up()
    s.ends(1)
    assert s.target(Target.DOWN) == []
    assert s.state() is State.DOWN
    assert s.wait(100.0) == []
    assert s.state() is State.DOWN


def test_up_and_down_before_a_decision_is_down_and_nothing_else() -> None:
    s = make(Target.DOWN)
    s.instance = plan.set_targets({"a": s.instance}, [plan.TargetChange("a", Target.UP)])["a"]
    assert s.target(Target.DOWN) == []
    assert s.state() is State.DOWN


def test_a_failed_start_with_the_target_down_is_down() -> None:
    s = make()
    s.decide()
    key = s.instance.run_key()
    s.instance = plan.set_targets({"a": s.instance}, [plan.TargetChange("a", Target.DOWN)])["a"]
    assert s.post(StartFailed(key, "no", s.now)) == []
    assert (s.state(), s.instance.standing.reason, s.instance.standing.message) == (
        State.DOWN,
        "Stopped",
        "start failed: no",
    )


# --- restart on request


def test_a_restart_goes_down_and_up_again_and_keeps_the_target() -> None:
    s = make().up()
    assert stops(s.restart()) == [(INT, False)]
    assert s.instance.wanted.target is Target.UP
    assert s.instance.standing.observed_generation < s.instance.wanted.generation
    (launch,) = s.ends()
    assert launch == Launch(RunKey("a", 2), s.instance.spec)
    assert not s.instance.wanted.restart
    s.started()
    s.ready()
    assert s.instance.standing.observed_generation == s.instance.wanted.generation
    assert s.instance.standing.fail_times == ()


def test_down_overrides_a_restart_in_progress() -> None:
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


def test_a_restart_ends_when_the_command_disappears() -> None:
    s = make().up()
    s.restart()
    s.instance = replace(s.instance, spec=replace(s.instance.spec, process=None, problem="no command"))
    s.ends()
    assert s.state() is State.UNKNOWN
    assert not s.instance.wanted.restart


# --- not operable


def test_an_instance_without_a_command_is_not_operable_and_gives_the_reason() -> None:
    s = make(process=None, problem="agent class 'Agent' has no command")
    assert s.decide() == []
    assert (s.state(), s.instance.standing.reason) == (State.UNKNOWN, "NotOperable")
    assert s.instance.standing.message == "agent class 'Agent' has no command"
    assert not s.instance.operable
    assert s.due() is None


def test_an_instance_starts_when_a_command_appears() -> None:
    s = make(process=None, problem="no command")
    s.decide()
    s.instance = replace(s.instance, spec=replace(s.instance.spec, process=PROCESS))
    (launch,) = s.decide()
    assert isinstance(launch, Launch)


def test_the_message_follows_the_problem() -> None:
    s = make(process=None, problem="one")
    s.decide()
    s.instance = replace(s.instance, spec=replace(s.instance.spec, process=None, problem="two"))
    s.decide()
    assert s.instance.standing.message == "two"


def test_a_running_instance_without_a_command_is_not_operable_once_down() -> None:
    s = make().up()
    s.instance = replace(s.instance, spec=replace(s.instance.spec, process=None, problem="no command"))
    assert s.decide() == []
    assert s.state() is State.UP
    assert s.instance.restart_required
    s.ends(1)
    assert s.state() is State.UNKNOWN


def test_an_instance_that_waits_may_lose_its_command() -> None:
    s = make()
    s.neighbours(waiting_for=("b",))
    s.instance = replace(s.instance, spec=replace(s.instance.spec, process=None, problem="no command"))
    s.decide()
    assert s.state() is State.UNKNOWN


def test_an_instance_found_running_is_up_without_a_command() -> None:
    s = make(Target.DOWN, process=None, problem="no command")
    s.decide()
    s.instance = with_fields(s.instance, run=Run(1, Phase.READY, PROCESS, 4711), runs=1)
    assert stops(s.decide()) == [(INT, False)]
    assert s.state() is State.WAIT_DEAD


@pytest.mark.parametrize("before", [State.START_AT, State.START])
def test_an_instance_found_running_is_not_launched(before: State) -> None:
    s = make()
    if before is State.START_AT:
        s.up()
        s.ends(1)
    else:
        s.neighbours(waiting_for=("b",))
    assert s.state() is before
    number = s.instance.standing.runs + 1
    s.instance = with_fields(
        s.instance, run=Run(number, Phase.READY, PROCESS, 4711), runs=number, waiting_for=()
    )
    assert s.wait(100.0) == []
    assert s.state() is State.UP


def test_an_instance_found_running_sheds_its_failures_in_time() -> None:
    s = make().up()
    s.ends(1)
    s.instance = with_fields(s.instance, run=Run(2, Phase.READY, PROCESS, 4711), runs=2)
    s.decide()
    assert s.instance.standing.failures == 1
    s.wait(60.0)
    assert s.instance.standing.failures == 0


# --- passive


def test_a_passive_instance_mirrors_the_observations() -> None:
    s = make(Target.PASSIVE)
    assert s.decide() == []
    assert s.state() is State.DOWN
    s.instance = with_fields(s.instance, run=Run(1, Phase.READY, PROCESS, 4711), runs=1)
    assert s.decide() == []
    assert s.state() is State.UP
    assert s.ends(1) == []
    assert s.state() is State.DOWN
    assert s.instance.standing.fail_times == ()
    assert s.due() is None


def test_an_instance_that_becomes_passive_during_its_start_runs_on() -> None:
    s = make()
    s.decide()
    s.started()
    assert s.target(Target.PASSIVE) == []
    assert s.state() is State.UP
    assert s.wait(100.0) == []


def test_the_rest_of_a_passive_tree_runs_on() -> None:
    s = make().up()
    s.target(Target.PASSIVE)
    assert s.main_ends(1) == []
    assert s.state() is State.UP
    assert s.gone() == []
    assert s.state() is State.DOWN


def test_failures_of_a_passive_instance_are_forgotten_while_its_leftovers_run() -> None:
    # Otherwise the deadline stays in the past, and the loop spins until the leftovers are gone.
    s = make().up()
    s.crash_and_return()
    s.target(Target.PASSIVE)
    s.main_ends()
    assert s.until_state_deadline() == []
    assert (s.state(), s.instance.standing.failures, s.instance.standing.deadline) == (State.UP, 0, None)


def test_a_passive_instance_starts_on_request_and_is_passive_again() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.decide()
    (launch,) = s.target(Target.UP)
    assert isinstance(launch, Launch)
    s.started()
    s.ready()
    assert (s.state(), s.instance.wanted.target) == (State.UP, Target.PASSIVE)
    assert s.instance.standing.observed_generation == s.instance.wanted.generation
    assert s.ends(1) == []
    assert s.state() is State.DOWN


def test_a_passive_instance_stops_on_request_and_is_passive_again() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.target(Target.UP)
    s.started()
    s.ready()
    assert stops(s.target(Target.DOWN)) == [(INT, False)]
    s.ends()
    assert (s.state(), s.instance.wanted.target) == (State.DOWN, Target.PASSIVE)


def test_a_failed_start_of_a_passive_instance_is_not_repeated() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.target(Target.UP)
    assert s.start_failed() == []
    assert (s.state(), s.instance.wanted.target) == (State.DOWN, Target.PASSIVE)
    assert s.instance.standing.observed_generation == s.instance.wanted.generation
    assert s.due() is None


def test_a_timed_out_start_of_a_passive_instance_runs_on() -> None:
    s = make(initial_target=Target.PASSIVE)
    s.target(Target.UP)
    s.started()
    assert s.until_state_deadline() == []
    assert (s.state(), s.instance.wanted.target) == (State.UP, Target.PASSIVE)


# --- leaving the list


def test_a_retired_instance_goes_down_and_then_leaves_the_list() -> None:
    s = make().up()
    s.instance = plan.retire(s.instance)
    assert stops(s.decide()) == [(INT, False)]
    assert not s.removed
    assert s.ends() == [Remove("a")]


@pytest.mark.parametrize("process", [None, PROCESS])
def test_a_retired_instance_that_is_down_leaves_the_list_at_once(process: object) -> None:
    s = make(Target.DOWN, process=process)
    s.decide()
    s.instance = plan.retire(s.instance)
    assert s.decide() == [Remove("a")]


def test_a_retired_instance_is_not_restarted_after_a_crash() -> None:
    s = make().up()
    s.instance = plan.retire(s.instance)
    assert s.ends(1) == [Remove("a")]


# --- events


def test_events_of_an_older_run_are_ignored() -> None:
    s = make().up()
    s.crash_and_return()
    before = s.instance
    old = RunKey("a", 1)
    s.post(
        Exited(old, ExitStatus(1), s.now),
        Gone(old, s.now),
        Ready(old, s.now),
        Started(old, 1, s.now),
        StartFailed(old, "late", s.now),
    )
    assert s.instance == before


def test_repeated_events_change_nothing() -> None:
    s = make().up()
    key = s.instance.run_key()
    before = s.instance
    s.post(Started(key, 99, s.now), Ready(key, s.now))
    assert s.instance == before
    s.main_ends(1)
    before = s.instance
    s.post(Exited(key, ExitStatus(2), s.now), Ready(key, s.now), Started(key, 99, s.now))
    assert s.instance == before


def test_a_start_that_read_a_newer_file_needs_no_restart() -> None:
    s = make()
    spec = replace(s.instance.spec, process=replace(PROCESS, env_files=(EnvFile("/f", "old"),)))
    s.instance = replace(s.instance, spec=spec)
    s.decide()
    read = replace(PROCESS, env_files=(EnvFile("/f", "new"),))
    s.post(Started(s.instance.run_key(), 99, s.now, read), Ready(s.instance.run_key(), s.now))
    assert s.instance.spec.process == read
    assert not s.instance.restart_required
    s.instance = replace(
        s.instance, spec=replace(spec, process=replace(PROCESS, env_files=(EnvFile("/f", "newer"),)))
    )
    assert s.instance.restart_required


def test_a_file_that_cannot_be_read_calls_for_no_restart() -> None:
    s = make()
    spec = replace(s.instance.spec, process=replace(PROCESS, env_files=(EnvFile("/f", "old"),)))
    s.instance = replace(s.instance, spec=spec)
    s.decide()
    s.post(Started(s.instance.run_key(), 99, s.now), Ready(s.instance.run_key(), s.now))
    unread = replace(PROCESS, env_files=(EnvFile("/f"),))
    s.instance = replace(s.instance, spec=replace(spec, process=unread))
    assert not s.instance.restart_required
    s.instance = replace(s.instance, spec=replace(spec, process=replace(unread, argv=("other",))))
    assert s.instance.restart_required
    s.instance = replace(s.instance, spec=replace(spec, process=replace(PROCESS, env_files=(EnvFile("/g"),))))
    assert s.instance.restart_required


def test_a_config_that_was_read_during_a_start_counts() -> None:
    s = make()
    s.decide()
    changed = replace(s.instance.spec, process=replace(PROCESS, argv=("other",)))
    s.instance = replace(s.instance, spec=changed)
    s.post(Started(s.instance.run_key(), 99, s.now, replace(PROCESS, env_files=(EnvFile("/f", "new"),))))
    assert s.instance.spec == changed
    assert s.instance.restart_required


def test_ready_before_started_is_up_with_its_pid() -> None:
    s = make()
    s.decide()
    key = s.instance.run_key()
    s.post(Ready(key, s.now), Started(key, 99, s.now))
    assert s.state() is State.UP
    assert s.instance.observed.run is not None
    assert s.instance.observed.run.pid == 99


# --- generations


def test_the_observed_generation_follows_once_the_request_is_carried_out() -> None:
    s = make()
    s.decide()
    assert (s.instance.wanted.generation, s.instance.standing.observed_generation) == (1, 0)
    s.started()
    s.ready()
    assert s.instance.standing.observed_generation == 1
    s.target(Target.DOWN)
    assert (s.instance.wanted.generation, s.instance.standing.observed_generation) == (2, 1)
    s.main_ends()
    assert s.instance.standing.observed_generation == 1
    s.gone()
    assert s.instance.standing.observed_generation == 2
    s.target(Target.DOWN)
    assert (s.instance.wanted.generation, s.instance.standing.observed_generation) == (3, 3), (
        "a request for the present state is done at once"
    )


def test_a_crash_does_not_lower_the_observed_generation() -> None:
    s = make().up()
    s.ends(1)
    assert s.instance.standing.observed_generation == s.instance.wanted.generation


def test_the_run_holds_the_stage_of_its_stop() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert s.instance.observed.run is not None
    assert s.instance.observed.run.stop_stage is StopStage.SIGNAL
