"""What the screen shows: the newest state, how old it is, and the order, filter and selection of its rows.

This module is pure: all times are arguments, in s of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.values import dataclass

from hostmanager_client.cli.text import duration
from hostmanager_client.reconnect import ConnectionChange, Disconnected
from hostmanager_client.standing import count_groups, trouble_first
from hostmanager_client.state import HostState
from hostmanager_client.words import next_action_word, to_seconds

SortKey = Callable[[pb.ManagedInstance], Any]
TROUBLE_FIRST = "trouble first"


def _last_change(instance: pb.ManagedInstance) -> float:
    if instance.HasField("start_time"):
        return -to_seconds(instance.start_time)
    return -to_seconds(instance.last_exit.time) if instance.HasField("last_exit") else 0.0


# The orders of rows; ties keep the order of `trouble first`.
SORTS: dict[str, SortKey | None] = {
    TROUBLE_FIRST: None,
    "name": lambda instance: instance.instance_id,
    "class": lambda instance: instance.agent_class,
    "newest change": _last_change,
    "restarts": lambda instance: -instance.restart_count,
    "recent failures": lambda instance: -len(instance.fail_times),
}


@dataclass(frozen=True, slots=True)
class CutOff:
    """A lost connection: since when, why, and the time of the next attempt."""

    since: float
    why: str
    next_attempt: float


class ScreenModel:
    """The state of the screen, which the main thread changes and paints."""

    def __init__(self, now: float) -> None:
        self.state: HostState | None = None
        self.cut_off: CutOff | None = None
        self.sort = TROUBLE_FIRST
        self.backwards = False
        self.filter = ""
        self.selected = ""  # empty: the row where the cursor stands until the first move
        self.top = 0  # index of the first visible row
        self._state_at = now
        self._heard = now
        self._rows: list[pb.ManagedInstance] = []
        self._index = 0
        self._counts: dict[str, int] = {}
        self._stale = True

    # --- news of the connection

    def take_state(self, state: HostState, now: float) -> None:
        """Show a new state, received now."""
        self.state, self._state_at, self._stale = state, now, True
        self.heard(now)

    def heard(self, now: float) -> None:
        """Record a sign of life of the daemon: what the screen shows is current."""
        self._heard, self.cut_off = now, None

    def take_connection(self, change: ConnectionChange, now: float) -> None:
        """Record a lost or restored connection."""
        if isinstance(change, Disconnected):
            since = self.cut_off.since if self.cut_off is not None else now
            self.cut_off = CutOff(since, str(change.error), now + change.retry_in)
        else:
            self.heard(now)

    def clock(self, now: float) -> float:
        """Return the clock of the daemon, in s since 1970, as ages use that clock."""
        return self.state.time.timestamp() + now - self._state_at if self.state is not None else 0.0

    def connection_text(self, now: float) -> str:
        """Return a sentence about a lost connection; empty while connected."""
        lost = self.cut_off
        if lost is None:
            return ""
        shown = f"shown: the state of {duration(now - self._heard)} ago" if self.state is not None else ""
        parts = [f"CUT OFF for {duration(now - lost.since)}", shown,
                 f"next attempt in {duration(lost.next_attempt - now)}", lost.why]  # fmt: skip
        return "; ".join(part for part in parts if part)

    # --- rows

    @property
    def rows(self) -> list[pb.ManagedInstance]:
        """The instances that the filter passes, in the chosen order."""
        if self._stale:
            self._arrange()
        return self._rows

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of all instances by group, whatever the filter passes."""
        if self._stale:
            self._arrange()
        return self._counts

    @property
    def index(self) -> int:
        """The index of the selected row; 0 without rows."""
        if self._stale:
            self._arrange()
        return self._index

    @property
    def current(self) -> pb.ManagedInstance | None:
        """The selected instance."""
        return self.rows[self.index] if self.rows else None

    def move(self, by: int) -> None:
        """Select another row."""
        if rows := self.rows:
            self._index = min(max(self._index + by, 0), len(rows) - 1)
            self.selected = rows[self._index].instance_id

    def next_sort(self) -> None:
        """Take the next order."""
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self._stale = True

    def reverse(self) -> None:
        """Turn the order round."""
        self.backwards = not self.backwards
        self._stale = True

    def set_filter(self, text: str) -> None:
        """Show only rows with all of these words."""
        self.filter, self._stale = text, True

    def _arrange(self) -> None:
        self._stale = False
        pairs = trouble_first(self.state.instances.values()) if self.state is not None else []
        self._counts = count_groups(group for _, group in pairs)
        wanted = self.filter.lower().split()
        if wanted:
            pairs = [pair for pair in pairs if _matches(*pair, wanted)]
        key = SORTS[self.sort]
        rows = [instance for instance, _ in pairs]
        if key is not None:
            rows.sort(key=key)
        self._rows = rows[::-1] if self.backwards else rows
        # The selection stays on its instance; after its removal, on its row.
        self._index = min(self._index, max(0, len(self._rows) - 1))
        if self.selected:
            places = (n for n, one in enumerate(self._rows) if one.instance_id == self.selected)
            self._index = next(places, self._index)


def _matches(instance: pb.ManagedInstance, group: str, wanted: list[str]) -> bool:
    text = " ".join(
        (
            instance.instance_id,
            instance.agent_class,
            next_action_word(instance.next_action),
            group,
            instance.reason,
        )
    ).lower()
    return all(word in text for word in wanted)
