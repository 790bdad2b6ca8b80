"""The selection of events that a reader asks for."""

from __future__ import annotations

from hostmanager.values import dataclass

from hostmanager_server.core.event_log import LogEntry, Severity
from hostmanager_server.core.selection import ParsedSelector

_RANKS = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class EventSelection:
    """The events that a reader asks for; an empty set, the severity INFO and None stand for all.

    `since` (included) and `until` (excluded) are Unix times in s.
    """

    instance_ids: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    min_severity: Severity = Severity.INFO
    since: float | None = None
    until: float | None = None
    selectors: tuple[ParsedSelector, ...] = ()  # further instances, by patterns of ids

    @property
    def everything(self) -> bool:
        """True if the reader asks for all events."""
        return self == ALL_EVENTS

    def takes(self, entry: LogEntry) -> bool:
        """Return whether the reader asks for this event."""
        return (
            self.takes_instance(entry.instance_id)
            and (not self.reasons or entry.reason in self.reasons)
            and _RANKS[entry.severity] >= _RANKS[self.min_severity]
            and self.takes_time(entry.at.wall)
        )

    def takes_instance(self, instance_id: str) -> bool:
        """Return whether the reader asks for events of this instance."""
        if not self.instance_ids and not self.selectors:
            return True
        if instance_id in self.instance_ids:
            return True
        return bool(instance_id) and any(each.matches_id(instance_id) for each in self.selectors)

    def takes_time(self, wall: float) -> bool:
        """Return whether the time of an event is in the range."""
        return (self.since is None or wall >= self.since) and (self.until is None or wall < self.until)


ALL_EVENTS = EventSelection()
