"""Tests of compose calls, with shell processes instead of compose."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from hostmanager_server.drivers.compose.cli.process import CallKind, ComposeCall, ComposeCalls

DEADLINE = 30.0  # s


class CallHarness:
    """Compose calls, with their outcomes in order."""

    def __init__(self, progress_timeout: float = DEADLINE) -> None:
        self.soon: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.calls = ComposeCalls(self.soon.put, os.environ, progress_timeout=progress_timeout)
        self.ends: list[str] = []

    def start(self, *argv: str) -> ComposeCall:
        return self.calls.start(CallKind.START, argv, "/", self.ends.append)

    def finish(self) -> str:
        """Wait for the next call to end, and return its outcome."""
        self.soon.get(timeout=DEADLINE)()
        return self.ends[-1]


def test_a_successful_call_has_no_error() -> None:
    harness = CallHarness()
    harness.calls.start(
        CallKind.START, ["sh", "-c", "echo Container lab-a-1  Started"], "/", harness.ends.append
    )
    assert harness.finish() == ""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo ' Container lab-a-1  Starting'; echo 'Error response from daemon: no'; exit 1",
            "Error response",
        ),
        ("exit 14", "code 14"),
        ("kill -9 $$", "code -9"),
    ],
)
def test_a_failed_call_has_the_reason(script: str, expected: str) -> None:
    harness = CallHarness()
    harness.start("sh", "-c", script)
    assert expected in harness.finish()
    assert "Starting" not in harness.ends[-1]


def test_a_program_that_cannot_be_run_is_a_failed_call() -> None:
    harness = CallHarness()
    harness.start("/nonexistent/compose")
    assert "cannot run /nonexistent/compose" in harness.finish()


def test_a_call_without_progress_is_killed() -> None:
    harness = CallHarness(progress_timeout=3.0)
    harness.calls.start(
        CallKind.START, ["sh", "-c", "echo pulling; exec sleep 100000"], "/", harness.ends.append
    )
    assert "no progress for 3 s" in harness.finish()
    assert "pulling" in harness.ends[-1]


def test_an_interrupted_call_ends() -> None:
    harness = CallHarness()
    call = harness.start("sleep", "100000")
    call.interrupt()
    assert harness.finish().startswith("interrupted")


def test_close_kills_all_running_calls() -> None:
    harness = CallHarness()
    for _ in range(20):  # more than the limit of parallel calls
        harness.start("sleep", "100000")
    harness.calls.close()
    assert all(harness.finish().startswith("interrupted") for _ in range(20))


def test_a_call_may_be_silent_while_a_container_takes_its_time_to_stop() -> None:
    harness = CallHarness(progress_timeout=0.0)
    harness.calls.start(CallKind.STOP, ["sleep", "0.1"], "/", harness.ends.append, stop_grace=DEADLINE)
    assert harness.finish() == ""
    harness.calls.start(CallKind.STOP, ["sleep", "0.1"], "/", harness.ends.append, stop_grace=math.inf)
    assert harness.finish() == ""
