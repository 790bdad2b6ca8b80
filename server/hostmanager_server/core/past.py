"""The recent past of an instance, folded from events: its ends, its last working run, the changes before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from hostmanager.values import dataclass

from hostmanager_server.core.conditions import CONDITIONS
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Outcome, State
from hostmanager_server.core.origin import OriginKind
from hostmanager_server.core.plan import ALL
from hostmanager_server.core.spec import Target

MOST_ENDS = 5
MOST_CHANGES = 5
# Reasons of events about the end of a run that nobody asked for, or a start that failed.
ENDS = frozenset({"Exited", "StartFailed", "StartTimedOut", "Degraded", "EndedUnseen"})
_BEGINS = frozenset({"Up", "FoundRunning", "Adopted"})
_ENDS_OF_UP = ENDS | {"Stopping", "RestartedWith", "Down", "Finished", "Launching"}
# Changes of the whole host, and of one instance.
_CHANGES = frozenset(
    {"ConfigRead", "ConfigRejected", "DaemonStarted", "Upgraded", "EngineLost", "EngineBack", "PullEnded"}
)
_OWN_CHANGES = frozenset(
    {"Added", "Changed", "Reset", "TakenOver", "ServiceGone", "RestartRequired", "RestartedWith"}
)
_CLOCK_SLACK = 1.0  # s; a change and its effect may have one time


class LoggedEvent(Protocol):
    """A published event."""

    @property
    def entry(self) -> LogEntry:
        """The event without its number."""


EventT = TypeVar("EventT", bound=LoggedEvent)


@dataclass(frozen=True, slots=True)
class WorkingRun:
    """A run that was up for the reset time of the backoff, as Unix times in s; `end` of None: it lives."""

    start: float
    end: float | None


class Past(Generic[EventT]):
    """The past of one instance; `add` takes events newest first, until `complete`."""

    def __init__(self, instance: Instance, now: Instant) -> None:
        self._instance = instance
        self._now = now.wall
        self._run_end: float | None = None  # of the run before the events seen so far
        self._runs = instance.standing.state is State.UP
        self._candidates: list[EventT] = []  # changes, newest first
        self._newest: LogEntry | None = None  # about the instance
        self._oldest_end: float | None = None
        self.ends: list[EventT] = []
        self.more_ends = 0
        self.last_worked: WorkingRun | None = None

    @property
    def complete(self) -> bool:
        """True once the last working run is known: older events belong to better times."""
        return self.last_worked is not None

    def add(self, event: EventT) -> None:
        """Take the next older event, of this instance or of the host."""
        entry = event.entry
        if self.complete:
            return
        if entry.instance_id == self._instance.instance_id:
            self._add_own(event, entry)
        elif not entry.instance_id and self._concerns(entry):
            self._candidates.append(event)

    def _add_own(self, event: EventT, entry: LogEntry) -> None:
        at = entry.at.wall
        self._newest = self._newest or entry
        if entry.reason in _OWN_CHANGES and not _is_part_of_start(entry):
            self._candidates.append(event)
        if entry.reason in _BEGINS:
            end = None if self._runs and self._run_end is None else self._run_end
            lasted = (self._now if end is None else end) - at
            if lasted >= self._instance.spec.restart.backoff.reset_after and (end is not None or self._runs):
                self.last_worked = WorkingRun(at, end)
        elif entry.reason in _ENDS_OF_UP:
            self._run_end = at
        if entry.reason in ENDS:
            self._oldest_end = at
            if len(self.ends) < MOST_ENDS:
                self.ends.append(event)
            else:
                self.more_ends += 1

    def _concerns(self, entry: LogEntry) -> bool:
        if entry.kind is EntryKind.REQUEST and entry.reason in ("Update", "Restart"):
            return _names(entry.message, self._instance.instance_id)
        changes = entry.reason in _CHANGES or (entry.kind is EntryKind.MANAGER and entry.reason == "Started")
        return changes and not _is_part_of_start(entry)

    @property
    def since(self) -> float | None:
        """When the trouble began, as Unix time in s; None if older than the known events."""
        if self._oldest_end is not None and self._instance.wanted.target is not Target.DOWN:
            return self._oldest_end
        return self._newest.at.wall if self._newest is not None else None

    @property
    def changes(self) -> list[EventT]:
        """The last changes before the trouble, newest first."""
        since = self.since
        begin = self.last_worked.start if self.last_worked is not None else None
        before = (
            each
            for each in self._candidates
            if (since is None or each.entry.at.wall <= since + _CLOCK_SLACK)
            and (begin is None or each.entry.at.wall >= begin)
        )
        return list(_first(before, MOST_CHANGES))


def _is_part_of_start(entry: LogEntry) -> bool:
    """Return whether an event only belongs to a start of the daemon, which has an event of its own."""
    origin = entry.origin
    if entry.reason == "Added":
        return origin is None or origin.requester is None
    return origin is not None and origin.kind is OriginKind.DAEMON


def _first(events: Iterable[EventT], count: int) -> Iterator[EventT]:
    for event, _ in zip(events, range(count), strict=False):
        yield event


def _names(message: str, instance_id: str) -> bool:
    """Return whether the message of a request names an instance, or all."""
    words = message.partition(":")[2] or message.partition(" of ")[2]
    return any(word.strip(",") in (instance_id, ALL) for word in words.split()) or "more" in words


def is_as_wanted(instance: Instance) -> bool:
    """Return whether an instance is where its target wants it, without recent failures or conditions."""
    wanted, standing = instance.wanted, instance.standing
    if instance.observed.unobservable or instance.retired or wanted.successor is not None:
        return False
    if standing.reason in (*CONDITIONS, "Degraded"):
        return False
    match wanted.target:
        case Target.PASSIVE:
            return True
        case Target.DOWN:
            return standing.state in (State.DOWN, State.UNKNOWN)
        case Target.UP:
            if standing.state is State.DOWN:
                waits = instance.awaits_schedule and standing.outcome is None and not instance.held
                return standing.outcome is Outcome.COMPLETED or instance.wants_no_container or waits
            return standing.state is State.UP and not standing.failures and instance.should_run
