"""Groups of instances for summaries: up, down, failing and so on, by the state and its reason.

This module is pure, and cheap to import.
"""

from __future__ import annotations

from hostmanager_client.words import next_action_word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostmanager.v1 import host_manager_pb2 as pb

FAILING = "failing"
UNKNOWN = "unknown"
PAUSED = "paused"
WAITING = "waiting"
BLOCKED = "blocked"  # waits for what only a request can bring
# The groups in the order of a summary.
GROUPS = ("up", "starting", "stopping", "finished", "down", PAUSED, WAITING, BLOCKED, FAILING, UNKNOWN)

# Reasons that tell more than the state.
_BY_REASON = {
    "Failed": FAILING,
    "BackingOff": FAILING,
    "Unhealthy": FAILING,
    "Degraded": FAILING,
    "StopFailed": FAILING,
    "Paused": PAUSED,
    "Finished": "finished",
    "WaitingForDependencies": WAITING,
    "DependencyDown": BLOCKED,
    "Held": BLOCKED,
    "Scheduled": WAITING,
    "NotAnswering": FAILING,
    "Unresponsive": FAILING,
}
_BY_STATE = {
    "up": "up",
    "down": "down",
    "start_at": FAILING,
    "start": "starting",
    "wait_start": "starting",
    "wait_dead": "stopping",
}
_IN_A_LOOP = {"Starting": "starting", "CleaningUp": "stopping"}  # while instances fail again and again
_TROUBLE = frozenset({BLOCKED, FAILING, PAUSED, UNKNOWN})


def group_of(instance: pb.ManagedInstance) -> str:
    """Return the group of an instance.

    A crash loop stays `failing` while it passes through a start or the end of leftovers.
    """
    state = next_action_word(instance.next_action)
    reason = instance.reason
    group = _BY_REASON.get(reason) or _BY_STATE.get(state, UNKNOWN)
    if _IN_A_LOOP.get(reason) == group and instance.consecutive_failures:
        return FAILING
    return group


def in_trouble(group: str) -> bool:
    """Return whether the instances of a group need the attention of an operator."""
    return group in _TROUBLE


def trouble_first(instances: Iterable[pb.ManagedInstance]) -> list[tuple[pb.ManagedInstance, str]]:
    """Return the instances with their groups: those in trouble, then the others.

    Each part has the order of the site config. Instances without an entry there follow, sorted by id.
    """
    return sorted(((one, group_of(one)) for one in instances), key=reading_order)


def reading_order(pair: tuple[pb.ManagedInstance, str]) -> tuple[bool, bool, int, str]:
    """Return the sort key of `trouble_first`."""
    instance, group = pair
    position = instance.position
    return group not in _TROUBLE, not position, position, instance.instance_id


def count_groups(groups: Iterable[str]) -> dict[str, int]:
    """Return the number of members of each group that has any, in the order of a summary."""
    counts = dict.fromkeys(GROUPS, 0)
    for group in groups:
        counts[group] += 1
    return {group: count for group, count in counts.items() if count}
