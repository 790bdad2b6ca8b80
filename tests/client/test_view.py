"""Tests of the MESSAGE column of `status`."""

from __future__ import annotations

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.cli.view import describe

NOW = 1000.0


def instance(state: str, reason: str, message: str, *, at: int | None = None) -> pb.ManagedInstance:
    """Return an instance that ended with code 3, 9 s ago."""
    action = pb.NextAction.Value(f"NEXT_ACTION_{state.upper()}")
    found = pb.ManagedInstance(next_action=action, reason=reason, message=message)
    found.last_exit.code = 3
    found.last_exit.time.seconds = 991
    if at is not None:
        found.at.seconds = at
    return found


@pytest.mark.parametrize(
    ("state", "reason", "message", "at", "expected"),
    [
        ("wait_start", "Starting", "not ready yet", 1005, "not ready yet; gives up in 5.0 s"),
        ("wait_start", "Starting", "started; up after 10 s", 1005, "started; up in 5.0 s"),
        ("wait_dead", "StopEscalated", "sent SIGTERM", 1005, "sent SIGTERM; a stronger signal in 5.0 s"),
        ("wait_dead", "StopFailed", "cannot stop 'a': no", 1005, "cannot stop 'a': no; tries again in 5.0 s"),
        ("down", "Stopped", "last exit: code 3", None, "last exit: code 3, 9.0 s ago"),
        ("down", "Stopped", "start failed: no; such file", None, "start failed: no; such file"),
        ("down", "Failed", "last exit: code 3; gave up", None, "last exit: code 3, 9.0 s ago; gave up"),
        ("down", "Finished", "completed with code 0", None, "completed with code 0"),
    ],
)
def test_the_message_tells_what_happened_and_what_follows(
    state: str, reason: str, message: str, at: int | None, expected: str
) -> None:
    assert describe(instance(state, reason, message, at=at), NOW) == expected
