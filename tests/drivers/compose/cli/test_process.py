"""Calls of the compose program, with real processes in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from hostmanager_server.drivers.compose.cli.process import ComposeCalls

DEADLINE = 30.0  # s


class CallHarness:
    """Calls, and what came of them in the order in which that was told."""

    def __init__(self, progress_timeout: float = DEADLINE) -> None:
        self.soon: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.calls = ComposeCalls(self.soon.put, os.environ, progress_timeout=progress_timeout)
        self.ends: list[str] = []

    def finish(self) -> str:
        """What the next call that is done has to say."""
        self.soon.get(timeout=DEADLINE)()
        return self.ends[-1]


def test_a_call_that_succeeds_says_nothing() -> None:
    harness = CallHarness()
    harness.calls.start(["sh", "-c", "echo Container lab-a-1  Started"], "/", harness.ends.append)
    assert harness.finish() == ""


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo ' Container lab-a-1  Starting'; echo 'Error response from daemon: no'; exit 1",
            "Error response",
        ),
        ("exit 14", "code 14"),
        ("kill -9 $$", "code -9"),
    ],
)
def test_a_call_that_fails_says_why(script: str, said: str) -> None:
    harness = CallHarness()
    harness.calls.start(["sh", "-c", script], "/", harness.ends.append)
    assert said in harness.finish()
    assert "Starting" not in harness.ends[-1]


def test_a_program_that_cannot_be_run_is_a_failed_call() -> None:
    harness = CallHarness()
    harness.calls.start(["/nonexistent/compose"], "/", harness.ends.append)
    assert "cannot run /nonexistent/compose" in harness.finish()


def test_a_call_that_makes_no_progress_is_given_up() -> None:
    harness = CallHarness(progress_timeout=3.0)
    harness.calls.start(["sh", "-c", "echo pulling; exec sleep 100000"], "/", harness.ends.append)
    assert "no progress for 3 s" in harness.finish()
    assert "pulling" in harness.ends[-1]


def test_an_interrupted_call_ends() -> None:
    harness = CallHarness()
    call = harness.calls.start(["sleep", "100000"], "/", harness.ends.append)
    call.interrupt()
    assert harness.finish().startswith("interrupted")


def test_closing_ends_what_is_under_way() -> None:
    harness = CallHarness()
    for _ in range(20):  # more than run at once
        harness.calls.start(["sleep", "100000"], "/", harness.ends.append)
    harness.calls.close()
    assert all(harness.finish().startswith("interrupted") for _ in range(20))
