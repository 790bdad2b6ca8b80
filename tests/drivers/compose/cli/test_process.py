"""Calls of the compose program, with real processes in its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue

import pytest
from hostmanager_server.drivers.compose.cli.process import ComposeCalls

PATIENCE = 30.0  # s


class Desk:
    """Calls, and what came of them in the order in which that was told."""

    def __init__(self, progress: float = PATIENCE) -> None:
        self.soon: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.calls = ComposeCalls(self.soon.put, os.environ, progress=progress)
        self.ends: list[str] = []

    def end(self) -> str:
        """What the next call that is done has to say."""
        self.soon.get(timeout=PATIENCE)()
        return self.ends[-1]


def test_a_call_that_succeeds_says_nothing() -> None:
    desk = Desk()
    desk.calls.start(["sh", "-c", "echo Container lab-a-1  Started"], "/", desk.ends.append)
    assert desk.end() == ""


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
    desk = Desk()
    desk.calls.start(["sh", "-c", script], "/", desk.ends.append)
    assert said in desk.end()
    assert "Starting" not in desk.ends[-1]


def test_a_program_that_cannot_be_run_is_a_failed_call() -> None:
    desk = Desk()
    desk.calls.start(["/nonexistent/compose"], "/", desk.ends.append)
    assert "cannot run /nonexistent/compose" in desk.end()


def test_a_call_that_makes_no_progress_is_given_up() -> None:
    desk = Desk(progress=3.0)
    desk.calls.start(["sh", "-c", "echo pulling; exec sleep 100000"], "/", desk.ends.append)
    assert "no progress for 3 s" in desk.end()
    assert "pulling" in desk.ends[-1]


def test_an_interrupted_call_ends() -> None:
    desk = Desk()
    call = desk.calls.start(["sleep", "100000"], "/", desk.ends.append)
    call.interrupt()
    assert desk.end().startswith("interrupted")


def test_closing_ends_what_is_under_way() -> None:
    desk = Desk()
    for _ in range(20):  # more than run at once
        desk.calls.start(["sleep", "100000"], "/", desk.ends.append)
    desk.calls.close()
    assert all(desk.end().startswith("interrupted") for _ in range(20))
