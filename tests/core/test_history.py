"""Histories across daemons: the part that still holds, and the part that does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.history import History, adds_nothing, history_of, with_history
from hostmanager_server.core.lifecycle import decide
from hostmanager_server.core.model import (
    Exit,
    Instance,
    Outcome,
    Phase,
    Run,
    State,
    new_instance,
    successor_of,
)
from hostmanager_server.core.plan import TargetChange, retire, set_targets
from hostmanager_server.core.spec import (
    InstanceSpec,
    Management,
    ProcessSpec,
    RestartPolicy,
    RestartWhen,
    ServiceSpec,
    Target,
)

from tests.core.instances import with_fields

NOW = Instant(1000.0, 1e9)
SPEC = InstanceSpec("a", "Agent", process=ProcessSpec(("agent",)))
OLD_EXIT = Exit(ExitStatus(code=1), Instant(990.0, 1e9 - 10), False, "ended with code 1")
SERVICE = ServiceSpec("project", ("/compose.yaml",), "ocs-a", "agent:1")
NEW_EXIT = Exit(ExitStatus(), NOW, False, "ended with status unknown")


def history(**changes: object) -> History:
    past = History("Agent", Management.HOST, runs=7, restarts=6, last_exit=OLD_EXIT)
    return replace(past, **changes)  # type: ignore[arg-type]  # whatever a test needs


RUN = Run(9, Phase.READY, ProcessSpec(("agent",)), pid=5, adopted=True)


def running(**changes: object) -> Instance:
    up = with_fields(new_instance(SPEC), run=RUN, runs=9, state=State.UP)
    return with_fields(up, **changes)


def test_a_finished_instance_stays_finished() -> None:
    instance = with_history(new_instance(SPEC), history(outcome=Outcome.COMPLETED), NOW)
    decision = decide(instance, NOW)
    assert decision.actions == ()
    assert (decision.instance.standing.state, decision.instance.standing.reason) == (State.DOWN, "Finished")
    assert history_of(decision.instance) == history(outcome=Outcome.COMPLETED)


def test_a_backoff_continues_under_the_next_daemon() -> None:
    past = history(failures=3, fail_times=(NOW,), retry_at=NOW.plus(20.0))
    instance = decide(with_history(new_instance(SPEC), past, NOW), NOW).instance
    assert (instance.standing.state, instance.standing.deadline) == (State.START_AT, NOW.plus(20.0))
    assert decide(instance, NOW.plus(20.0)).instance.standing.state is State.WAIT_START


def test_a_finished_instance_with_the_target_down_can_be_started() -> None:
    down = with_fields(new_instance(SPEC), target=Target.DOWN)
    instance = with_history(down, history(outcome=Outcome.COMPLETED), NOW)
    up = set_targets({"a": instance}, [TargetChange("a", Target.UP)])["a"]
    assert decide(up, NOW).instance.standing.state is State.WAIT_START
    assert instance.standing.outcome is None


def test_a_running_instance_is_not_finished_and_sheds_its_failures_in_time() -> None:
    past = history(failures=2, retry_at=NOW, outcome=Outcome.COMPLETED)
    instance = with_history(running(), past, NOW)
    assert (instance.standing.runs, instance.standing.restarts, instance.standing.failures) == (9, 6, 2)
    assert (instance.standing.outcome, instance.standing.retry_at) == (None, None)
    later = NOW.plus(SPEC.restart.backoff.reset_after)
    assert decide(instance, later).instance.standing.failures == 0


def test_an_unobserved_exit_adds_one_failure_to_the_history() -> None:
    instance = with_history(running(run=None, last_exit=NEW_EXIT), history(failures=2), NOW)
    decided = decide(instance, NOW).instance
    assert decided.observed.last_exit == NEW_EXIT
    assert decided.standing.failures == 3


@pytest.mark.parametrize("change", [{"agent_class": "Another"}, {"management": Management.DOCKER}])
def test_a_history_of_another_class_or_management_is_void(change: dict[str, object]) -> None:
    instance = new_instance(SPEC)
    assert with_history(instance, history(outcome=Outcome.COMPLETED, **change), NOW) == instance


def test_an_instance_without_failures_and_exits_has_no_history() -> None:
    assert history_of(running()) is None
    assert history_of(retire(running(last_exit=OLD_EXIT))) is None
    assert history_of(successor_of(running(last_exit=OLD_EXIT), SPEC, Target.UP)) is not None


def test_failures_that_leave_the_window_add_nothing() -> None:
    past = history(fail_times=(NOW, NOW.plus(1.0)))
    assert adds_nothing(past, replace(past, fail_times=(NOW.plus(1.0),)))
    assert adds_nothing(past, replace(past, fail_times=()))
    assert not adds_nothing(past, replace(past, fail_times=(NOW.plus(1.0), NOW.plus(2.0))))
    assert not adds_nothing(past, replace(past, failures=1))


def test_a_running_instance_keeps_running_when_its_target_was_lost() -> None:
    instance = decide(running(target=Target.DOWN, target_lost=True), NOW).instance
    assert (instance.wanted.target, instance.standing.state, instance.wanted.target_lost) == (
        Target.UP,
        State.UP,
        False,
    )


def test_a_service_found_running_keeps_running_when_its_target_was_lost() -> None:
    spec = InstanceSpec("a", "Agent", Management.DOCKER, service=SERVICE)
    unobserved = with_fields(new_instance(spec, Target.DOWN), target_lost=True)
    assert decide(unobserved, NOW).instance.wanted.target_lost
    run = Run(1, Phase.READY, SERVICE, adopted=True)
    found = decide(with_fields(unobserved, unobservable="", run=run, runs=1), NOW).instance
    assert (found.wanted.target, found.standing.state) == (Target.UP, State.UP)
    absent = decide(with_fields(unobserved, unobservable=""), NOW).instance
    assert (absent.wanted.target, absent.wanted.target_lost) == (Target.DOWN, False)


def test_a_new_request_replaces_a_lost_target() -> None:
    lost = running(target=Target.DOWN, target_lost=True)
    asked = set_targets({"a": lost}, [TargetChange("a", Target.DOWN)])["a"]
    assert decide(asked, NOW).instance.standing.state is State.WAIT_DEAD
    reasons = [a.reason for a in decide(lost, NOW).actions if isinstance(a, LogEntry)]
    assert reasons == ["TargetLost"]


def test_a_started_run_without_restarts_is_finished_when_it_is_gone() -> None:
    once = replace(SPEC, restart=RestartPolicy(RestartWhen.NEVER))
    begun = history_of(running(spec=once, run=replace(RUN, started=NOW)))
    assert begun is not None
    assert begun.started_once
    instance = decide(with_history(new_instance(once), begun, NOW), NOW).instance
    assert (instance.standing.state, instance.standing.reason, len(instance.standing.fail_times)) == (
        State.DOWN,
        "Failed",
        1,
    )
