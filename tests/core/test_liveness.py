"""Liveness probes: a run that does not answer is restarted, as a failure."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hostmanager_server.core.actions import Action, Launch
from hostmanager_server.core.event_log import EntryKind, Severity
from hostmanager_server.core.events import ProbeAnswer, ProbeAnswered, ServiceObserved, Verdict
from hostmanager_server.core.model import Outcome, State
from hostmanager_server.core.spec import (
    HealthCheckProbe,
    LivenessProbe,
    RestartPolicy,
    RestartWhen,
    Target,
    TcpProbe,
)

from tests.core.scripted_instance import ScriptedInstance, make, stops
from tests.core.test_conditions import SICK, running

INT = int(signal.SIGINT)
PROBE = LivenessProbe(TcpProbe("127.0.0.1", 5000), failures=3)


def answer(s: ScriptedInstance, failures: int, why: str = "refused") -> list[Action]:
    verdict = Verdict.FAILED if failures else Verdict.ALIVE
    key = s.instance.run_key()
    return s.post(ProbeAnswered(key, ProbeAnswer(verdict, s.now, why if failures else "", failures)))


def probed(restart: RestartPolicy | None = None) -> ScriptedInstance:
    return make(alive=PROBE, restart=restart or RestartPolicy()).up()


def test_a_run_that_does_not_answer_is_restarted_as_a_failure() -> None:
    s = probed()
    assert answer(s, 1) == []
    assert answer(s, 2) == []
    assert s.state() is State.UP
    assert stops(answer(s, 3)) == [(INT, False)]
    assert (s.state(), s.instance.standing.reason) == (State.WAIT_DEAD, "Unresponsive")
    assert "3 liveness probes in a row failed (refused)" in s.instance.standing.message
    s.ends(0)
    assert (s.state(), s.instance.standing.reason) == (State.START_AT, "BackingOff")
    assert s.instance.standing.message.startswith("unresponsive: 3 liveness probes in a row failed (refused)")
    assert s.instance.standing.failures == 1
    assert len(s.instance.standing.fail_times) == 1
    last = s.instance.observed.last_exit
    assert last is not None
    assert not last.expected
    assert last.why.endswith("; ended with code 0")
    (launch,) = s.until_state_deadline()
    assert isinstance(launch, Launch)
    assert s.instance.standing.restarts == 1
    (entry,) = [e for e in s.entries if e.reason == "Unresponsive"]
    assert (entry.kind, entry.severity) == (EntryKind.EXIT, Severity.WARNING)


def test_a_failing_probe_is_shown_until_it_succeeds() -> None:
    s = probed()
    answer(s, 0)
    assert s.instance.standing.reason == "Running"
    answer(s, 1)
    assert (s.state(), s.instance.standing.reason) == (State.UP, "NotAnswering")
    assert s.instance.standing.message == "failing its liveness probe (1 of 3): refused"
    answer(s, 0)
    assert (s.state(), s.instance.standing.reason) == (State.UP, "Running")
    assert [r for r in s.reasons() if r in ("NotAnswering", "Answering")] == ["NotAnswering", "Answering"]
    assert s.instance.standing.failures == 0


def test_a_probe_that_cannot_be_run_restarts_nothing() -> None:
    s = probed()
    for _ in range(10):
        unknown = ProbeAnswer(Verdict.UNKNOWN, s.now, "cannot run the probe: no such program")
        assert s.post(ProbeAnswered(s.instance.run_key(), unknown)) == []
    assert (s.state(), s.instance.standing.reason) == (State.UP, "Unprobed")
    assert "no such program" in s.instance.standing.message
    assert s.reasons().count("Unprobed") == 1


@pytest.mark.parametrize("target", [Target.PASSIVE, Target.DOWN])
def test_what_is_not_enforced_is_not_restarted(target: Target) -> None:
    s = probed()
    s.target(target)
    assert stops(answer(s, 3)) == []


def test_a_hang_counts_for_giving_up() -> None:
    s = probed(restart=RestartPolicy(give_up_after=1))
    assert stops(answer(s, 3)) == [(INT, False)]
    s.ends(0)
    assert (s.state(), s.instance.standing.outcome) == (State.DOWN, Outcome.FAILED)
    assert "unresponsive" in s.instance.standing.message


def test_a_hang_without_restarts_is_stopped_and_failed() -> None:
    s = probed(restart=RestartPolicy(RestartWhen.NEVER))
    assert stops(answer(s, 3)) == [(INT, False)]
    s.ends(0)
    assert (s.state(), s.instance.standing.reason) == (State.DOWN, "Failed")


def test_an_unhealthy_service_is_restarted_only_if_the_config_says_so() -> None:
    assert running(SICK).state() is State.UP
    s = running()
    s.instance = replace(s.instance, spec=replace(s.instance.spec, alive=LivenessProbe(HealthCheckProbe())))
    assert s.decide() == []
    s = _becomes_sick(s)
    assert (s.state(), s.instance.standing.reason) == (State.WAIT_DEAD, "Unresponsive")
    assert "health check" in s.instance.standing.message


def _becomes_sick(s: ScriptedInstance) -> ScriptedInstance:
    s.post(ServiceObserved("a", replace(SICK, paused_replicas=1)))
    assert s.state() is State.WAIT_START, "a paused service cannot answer"
    s.post(ServiceObserved("a", SICK))
    return s
