"""The lines of several instances in the order of their times, then as they come.

This module is pure: log_readers.py and aio.py feed it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.values import dataclass

from hostmanager_client.errors import InvalidRequest
from hostmanager_client.log_stream import MOST_LINES, LogQuery

# The daemon serves 64 readers of one client; all programs on its socket count as one client.
MOST_FOLLOWED = 60
PATIENCE = 2.0  # s without any line, after which the lines of some instances do not wait for the others
MOST_READERS = 16  # at once, of output up to now


@dataclass(frozen=True, slots=True)
class InstanceLine:
    """A line of output and its instance."""

    instance_id: str
    line: pb.LogLine


class LogMerge:
    """The lines of several instances: those of before sorted by time, new ones in the order of arrival."""

    def __init__(self, instance_ids: Iterable[str]) -> None:
        """Hold the lines of each instance until all have sent what they had."""
        self._held: dict[str, list[InstanceLine]] = {instance_id: [] for instance_id in instance_ids}
        self._waiting = set(self._held)

    def add(self, instance_id: str, line: pb.LogLine) -> list[InstanceLine]:
        """Add a line; return the lines to show now."""
        if not self._waiting:
            return [InstanceLine(instance_id, line)]
        self._held[instance_id].append(InstanceLine(instance_id, line))
        return []

    def caught_up(self, instance_id: str) -> list[InstanceLine]:
        """Note that an instance has sent what it had; return the lines to show now."""
        if instance_id not in self._waiting:
            return []
        self._waiting.discard(instance_id)
        return [] if self._waiting else self._sorted()

    @property
    def holds_lines(self) -> bool:
        """Whether lines wait for instances that have not sent what they had."""
        return bool(self._waiting)

    def release(self) -> list[InstanceLine]:
        """Stop waiting, as for an instance that does not answer; return the lines to show now."""
        self._waiting.clear()
        return self._sorted()

    def _sorted(self) -> list[InstanceLine]:
        """Return all held lines by time. A line of unknown time follows the line before it."""
        keyed: list[tuple[int, int, InstanceLine]] = []
        for lines in self._held.values():
            latest = 0
            for each in lines:
                stamp = each.line.time
                latest = max(latest, stamp.seconds * 10**9 + stamp.nanos)
                keyed.append((latest, len(keyed), each))
        self._held.clear()
        keyed.sort(key=lambda key: key[:2])
        return [each for _, _, each in keyed]


def share(query: LogQuery, instance_ids: list[str]) -> LogQuery:
    """Return the query for each of several instances, with bounded lines; raise InvalidRequest."""
    if query.follow and len(instance_ids) > MOST_FOLLOWED:
        raise InvalidRequest(
            f"cannot follow {len(instance_ids)} instances at once: name at most {MOST_FOLLOWED}"
        )
    most = MOST_LINES // max(1, len(instance_ids))
    asked = query.request("").lines if query.request("").HasField("lines") else 100
    return LogQuery(min(asked, most), query.follow, query.since, query.until, query.previous)
