"""Restarts above a limit of memory, and ends for lack of memory."""

from __future__ import annotations

import pytest
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.events import ExitStatus, MemoryExceeded, Ready, Started
from hostmanager_server.core.facts import describe
from hostmanager_server.core.health import is_failing
from hostmanager_server.core.model import State
from hostmanager_server.core.sizes import size_words
from hostmanager_server.core.spec import Backoff, RestartPolicy, Target

from tests.core.scripted_instance import ScriptedInstance, make, stops

GIB = 2**30


def exceed(s: ScriptedInstance) -> list[int]:
    return [signum for signum, _ in stops(s.post(MemoryExceeded(s.instance.run_key(), 2 * GIB, GIB)))]


def test_a_run_that_has_lasted_restarts_at_once() -> None:
    s = make().up()
    s.wait(61.0)
    assert exceed(s) == [2]
    assert s.state() is State.WAIT_DEAD
    entry = next(entry for entry in s.entries if entry.reason == "MemoryExceeded")
    assert entry.severity is Severity.WARNING
    assert entry.message == "uses 2 GiB of memory, and 'restart-above' is 1 GiB; restarting"
    assert len(s.ends(0)) == 1, "the launch"
    assert s.state() is State.WAIT_START
    assert (s.instance.standing.restarts, s.instance.standing.failures) == (1, 0)
    assert s.instance.observed.last_exit is not None
    assert s.instance.observed.last_exit.expected
    assert not is_failing(s.instance)


def test_a_run_that_exceeds_soon_after_its_start_waits_for_the_backoff() -> None:
    s = make(restart=RestartPolicy(backoff=Backoff(initial=2.0))).up()
    for delay in (2.0, 4.0, 8.0):
        assert exceed(s) == [2]
        s.ends(0)
        assert s.state() is State.START_AT
        assert s.due() == pytest.approx(delay)
        assert is_failing(s.instance)
        assert s.instance.standing.message.startswith(
            "stopped: the run used 2 GiB of memory, and 'restart-above' is 1 GiB; waiting to restart"
        )
        s.until_state_deadline()
        s.started()
        s.ready()
        assert s.state() is State.UP
    assert s.reasons().count("MemoryExceeded") == 3


def test_the_daemon_gives_up_on_runs_that_exceed_again_and_again() -> None:
    s = make(restart=RestartPolicy(backoff=Backoff(initial=0.0), give_up_after=2)).up()
    exceed(s)
    s.ends(0)
    s.started()
    s.ready()
    exceed(s)
    s.ends(0)
    assert s.state() is State.DOWN
    assert s.instance.standing.reason == "Failed"


def test_an_excess_of_a_run_that_is_to_stop_changes_nothing() -> None:
    s = make().up()
    s.target(Target.DOWN)
    assert exceed(s) == []
    s.ends(0)
    assert "MemoryExceeded" not in s.reasons()


def test_an_excess_before_the_run_is_up_counts_when_it_is() -> None:
    s = make(up_after=5.0)
    s.decide()
    key = s.instance.run_key()
    s.post(Started(key, 1, s.now), Ready(key, s.now), MemoryExceeded(key, 2 * GIB, GIB))
    assert s.state() is State.WAIT_START
    assert stops(s.wait(5.0)) == [(2, False)]


def test_a_limit_that_does_not_hold_is_reported_once_and_kept() -> None:
    s = make()
    s.decide()
    s.post(Started(s.instance.run_key(), 1, s.now, None, "no cgroup"))
    s.ready()
    s.wait(1.0)
    [entry] = [entry for entry in s.entries if entry.reason == "MemoryUnlimited"]
    assert "no cgroup" in entry.message
    assert s.instance.observed.run is not None
    assert s.instance.observed.run.unlimited == "no cgroup"


def test_an_end_for_lack_of_memory_says_so() -> None:
    assert describe(ExitStatus(signal=9, out_of_memory=True)) == "signal SIGKILL (out of memory)"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (512, "512 bytes"),
        (2**20, "1 MiB"),
        (1536 * 2**20, "1.5 GiB"),
        (1_000_000, "977 KiB"),
        (2**40, "1 TiB"),
    ],
)
def test_sizes_have_three_digits(count: int, words: str) -> None:
    assert size_words(count) == words
