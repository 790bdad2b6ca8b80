"""What the next daemon makes of the runs that it finds."""

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
SEEN = Exit(ExitStatus(code=2), Instant(150.0, 1_700_000_150.0), False, "ended with code 2", STARTED, 77)
SPECS = {"a": spec("a")}


def history(last_exit: Exit) -> Recovered:
    return Recovered({"a": Target.UP}, {"a": History("Agent", Management.HOST, last_exit=last_exit)})


def test_an_end_that_nobody_saw_is_told() -> None:
    found, notes = recover_runs([ENDED], SPECS, Recovered(), NOW)
    assert [note.reason for note in notes] == ["EndedUnseen"]
    assert (found["a"].observed.run, found["a"].standing.state) == (None, State.UP)  # whence it is lost
    told = found["a"].observed.last_exit
    assert told is not None
    assert (told.status, told.at, told.expected, told.pid) == (ExitStatus(), NOW, False, 77)


def test_an_end_that_the_earlier_daemon_saw_is_not_told_again() -> None:
    assert recover_runs([ENDED], SPECS, history(SEEN), NOW) == ({}, [])


def test_an_end_of_an_earlier_run_is_no_end_of_this_one() -> None:
    earlier = replace(SEEN, pid=76)
    found, notes = recover_runs([ENDED], SPECS, history(earlier), NOW)
    assert [note.reason for note in notes] == ["EndedUnseen"]
    assert found["a"].observed.last_exit is not None
    assert found["a"].observed.last_exit.pid == 77


def test_what_a_run_left_behind_goes_on_being_ended_without_another_failure() -> None:
    found, notes = recover_runs([replace(ENDED, gone=False)], SPECS, history(SEEN), NOW)
    assert [note.reason for note in notes] == ["Adopted"]
    run = found["a"].observed.run
    assert run is not None
    assert (run.phase, run.stop_stage, found["a"].standing.state) == (
        Phase.ENDING,
        StopStage.SIGNAL,
        State.WAIT_DEAD,
    )
    assert found["a"].observed.last_exit == SEEN
