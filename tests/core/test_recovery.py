"""Recovery of runs from an earlier daemon."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core.events import Adopted, ExitStatus, Instant, RunKey
from hostmanager_server.core.history import History
from hostmanager_server.core.model import Exit, Phase, State, StopStage
from hostmanager_server.core.recovery import Recovered, recover_runs
from hostmanager_server.core.spec import Management, ProcessSpec, Target

from tests.supervisor.conftest import spec

NOW = Instant(200.0, 1_700_000_200.0)
STARTED = Instant(100.0, 1_700_000_100.0)
ENDED = Adopted(
    RunKey("a", 3), 77, STARTED, ProcessSpec(("a",)), ended=ExitStatus(), gone=True, agent_class="Agent"
)
RECORDED = Exit(ExitStatus(code=2), Instant(150.0, 1_700_000_150.0), False, "ended with code 2", STARTED, 77)
SPECS = {"a": spec("a")}


def history(last_exit: Exit) -> Recovered:
    return Recovered({"a": Target.UP}, {"a": History("Agent", Management.HOST, last_exit=last_exit)})


def test_an_unobserved_exit_is_reported() -> None:
    ended = replace(ENDED, last_output="Error: no sensor")
    found, entries = recover_runs([ended], SPECS, Recovered(), NOW)
    assert [entry.reason for entry in entries] == ["EndedUnseen"]
    # The next decision handles the exit.
    assert (found["a"].observed.run, found["a"].standing.state) == (None, State.UP)
    last_exit = found["a"].observed.last_exit
    assert last_exit is not None
    assert (last_exit.status, last_exit.at, last_exit.expected, last_exit.pid) == (
        ExitStatus(),
        NOW,
        False,
        77,
    )
    assert last_exit.last_output == "Error: no sensor"


def test_a_recorded_exit_is_not_reported_again() -> None:
    assert recover_runs([ENDED], SPECS, history(RECORDED), NOW) == ({}, [])


def test_an_exit_of_an_earlier_run_does_not_count() -> None:
    earlier = replace(RECORDED, pid=76)
    found, entries = recover_runs([ENDED], SPECS, history(earlier), NOW)
    assert [entry.reason for entry in entries] == ["EndedUnseen"]
    assert found["a"].observed.last_exit is not None
    assert found["a"].observed.last_exit.pid == 77


def test_the_stop_of_a_recovered_tree_continues_without_another_failure() -> None:
    found, entries = recover_runs([replace(ENDED, gone=False)], SPECS, history(RECORDED), NOW)
    assert [entry.reason for entry in entries] == ["Adopted"]
    run = found["a"].observed.run
    assert run is not None
    assert (run.phase, run.stop_stage, found["a"].standing.state) == (
        Phase.ENDING,
        StopStage.SIGNAL,
        State.WAIT_DEAD,
    )
    assert found["a"].observed.last_exit == RECORDED
