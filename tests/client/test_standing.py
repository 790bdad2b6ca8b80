"""Groups of instances, and the order of tables."""

from __future__ import annotations

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.standing import count_groups, group_of, in_trouble, trouble_first


def instance(
    state: str, reason: str, *, failures: int = 0, name: str = "a", position: int = 0
) -> pb.ManagedInstance:
    return pb.ManagedInstance(
        instance_id=name,
        next_action=pb.NextAction.Value(f"NEXT_ACTION_{state.upper()}"),
        reason=reason,
        consecutive_failures=failures,
        position=position,
    )


@pytest.mark.parametrize(
    ("state", "reason", "failures", "group", "trouble"),
    [
        ("up", "Running", 0, "up", False),
        ("up", "Running", 2, "up", False),
        ("up", "Unhealthy", 0, "failing", True),
        ("up", "Degraded", 0, "failing", True),
        ("wait_start", "Paused", 0, "paused", True),
        ("down", "Stopped", 0, "down", False),
        ("down", "Finished", 0, "finished", False),
        ("down", "Failed", 3, "failing", True),
        ("start_at", "BackingOff", 1, "failing", True),
        ("start", "WaitingForDependencies", 0, "waiting", False),
        ("start", "DependencyDown", 0, "blocked", True),
        ("wait_start", "Starting", 0, "starting", False),
        ("wait_start", "Starting", 1, "failing", True),
        ("wait_dead", "CleaningUp", 1, "failing", True),
        ("wait_dead", "Stopping", 3, "stopping", False),
        ("wait_dead", "StopFailed", 0, "failing", True),
        ("unknown", "NotOperable", 0, "unknown", True),
        ("unknown", "OutOfSight", 0, "unknown", True),
        ("unspecified", "OfTheFuture", 0, "unknown", True),
    ],
)
def test_the_group_follows_from_state_and_reason(
    state: str, reason: str, failures: int, group: str, *, trouble: bool
) -> None:
    found = instance(state, reason, failures=failures)
    assert (group_of(found), in_trouble(group_of(found))) == (group, trouble)


def test_counts_stand_in_one_order_and_leave_out_empty_groups() -> None:
    found = [
        instance("start_at", "BackingOff"),
        instance("down", "Stopped"),
        instance("up", "Running"),
        instance("up", "Running"),
    ]
    assert list(count_groups(map(group_of, found)).items()) == [("up", 2), ("down", 1), ("failing", 1)]


def test_trouble_comes_first_and_the_rest_stands_as_in_the_site_config() -> None:
    found = [
        instance("up", "Running", name="b"),
        instance("up", "Running", name="a"),
        instance("up", "Running", name="z", position=1),
        instance("up", "Running", name="c", position=2),
        instance("start_at", "BackingOff", name="x", position=9),
        instance("down", "Failed", name="y", position=3),
    ]
    assert [one.instance_id for one, _ in trouble_first(found)] == ["y", "x", "z", "c", "a", "b"]
