"""The store: the published state of all instances, with revisions, readable from any thread.

One thread publishes; all other threads read. A watcher holds only a cursor (a revision, or the sequence
number of an event) and asks for everything after the cursor, so no watcher can make the store grow.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from hostmanager.values import dataclass

from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.manager_status import ManagerStatus
from hostmanager_server.core.model import Instance

# The most removals and events that the store keeps. An event takes some 300 bytes, a removal some 100.
REMOVALS_KEPT = 10_000
EVENTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Tracked:
    """An instance as published, and the revision of its last change."""

    instance: Instance
    revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The manager and all instances at one revision; `ids` has the ids in order."""

    revision: int
    manager: ManagerStatus
    instances: Mapping[str, Tracked]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreChanges:
    """The changes after a revision, up to `revision`; `manager` is None when unchanged."""

    revision: int
    instances: tuple[Tracked, ...]
    removed: tuple[str, ...]
    manager: ManagerStatus | None

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return not self.instances and not self.removed and self.manager is None


@dataclass(frozen=True, slots=True)
class PublishedEntry:
    """An entry of the event log as published; `sequence` counts on from the events of earlier daemons."""

    sequence: int
    revision: int
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Events:
    """Events after a sequence number, oldest first; the store dropped `missed` of them."""

    events: tuple[PublishedEntry, ...]
    missed: int
    last: int  # the cursor for the next call


class Store:
    """The published state; `epoch` names the store.

    Revisions and sequence numbers of different epochs cannot be compared.
    """

    def __init__(
        self,
        epoch: str,
        manager: ManagerStatus,
        *,
        removals_kept: int = REMOVALS_KEPT,
        events_kept: int = EVENTS_KEPT,
        last_sequence: int = 0,
    ) -> None:
        """Start at revision 1 with this manager, no instances and no events.

        `last_sequence` is the number of the last event of earlier daemons.
        """
        self.epoch = epoch
        self._lock = threading.Lock()
        self._revision = 1
        self._manager = manager
        self._manager_revision = 1
        # Ordered by the revision of the last change, so that `changes_since` reads only changed instances.
        self._instances: OrderedDict[str, Tracked] = OrderedDict()
        self._removals: OrderedDict[str, int] = OrderedDict()
        self._removals_kept = removals_kept
        self._compacted = 0  # the store may have dropped removals up to this revision
        self._events: deque[PublishedEntry] = deque(maxlen=events_kept)
        self._sequence = last_sequence
        self._snapshot: Snapshot | None = None
        self._ids: tuple[str, ...] | None = None  # sorted; None: instances came or went
        self._listeners: list[Callable[[], None]] = []

    # --- the publishing thread

    def publish(
        self,
        changed: Iterable[Instance] = (),
        removed: Iterable[str] = (),
        manager: ManagerStatus | None = None,
        entries: Iterable[LogEntry] = (),
    ) -> int:
        """Publish changes under one new revision, notify the listeners, and return the revision.

        `removed` ids that are not published have no effect. Only one thread may call.
        """
        with self._lock:
            self._revision += 1
            revision = self._revision
            for instance in changed:
                if instance.instance_id not in self._instances:
                    self._ids = None
                self._instances[instance.instance_id] = Tracked(instance, revision)
                self._instances.move_to_end(instance.instance_id)
                self._removals.pop(instance.instance_id, None)
            for instance_id in removed:
                if self._instances.pop(instance_id, None) is not None:
                    self._removals[instance_id] = revision
                    self._ids = None
            while len(self._removals) > self._removals_kept:
                _, self._compacted = self._removals.popitem(last=False)
            if manager is not None and manager != self._manager:
                self._manager = manager
                self._manager_revision = revision
            for entry in entries:
                self._sequence += 1
                self._events.append(PublishedEntry(self._sequence, revision, entry))
            self._snapshot = None
        for listener in self._listeners:
            listener()
        return revision

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Notify `listener` after every publication, on the publishing thread.

        The listener must return at once.
        """
        self._listeners = [*self._listeners, listener]

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Stop notifying `listener`; an unknown listener is ignored."""
        self._listeners = [known for known in self._listeners if known is not listener]

    # --- readers on any thread

    @property
    def revision(self) -> int:
        """Revision of the last publication."""
        return self._revision

    def snapshot(self) -> Snapshot:
        """Return the present state; nothing changes the mapping afterwards."""
        with self._lock:
            if self._snapshot is None:
                if self._ids is None:
                    self._ids = tuple(sorted(self._instances))
                instances = dict(self._instances)
                self._snapshot = Snapshot(self._revision, self._manager, instances, self._ids)
            return self._snapshot

    def changes_since(self, revision: int) -> StoreChanges | None:
        """Return the changes after `revision`.

        None means that the caller must take a new snapshot: `revision` lies ahead, or the store dropped
        removals since.
        """
        with self._lock:
            if revision < self._compacted or revision > self._revision:
                return None
            changed = []
            for tracked in reversed(self._instances.values()):
                if tracked.revision <= revision:
                    break
                changed.append(tracked)
            removed = []
            for instance_id in reversed(self._removals):
                if self._removals[instance_id] <= revision:
                    break
                removed.append(instance_id)
            manager = self._manager if self._manager_revision > revision else None
            changed.reverse()
            removed.reverse()
            return StoreChanges(self._revision, tuple(changed), tuple(removed), manager)

    def events_since(self, sequence: int, limit: int | None = None) -> Events:
        """Return the events after `sequence`, at most `limit` of them."""
        with self._lock:
            first = self._sequence - len(self._events) + 1
            missed = max(0, first - 1 - sequence)
            newer = min(len(self._events), max(0, self._sequence - sequence))
            # From the end, as most readers lack only the newest of thousands of events.
            events = tuple(islice(reversed(self._events), newer))[::-1][:limit]
            last = events[-1].sequence if events else max(sequence, first - 1)
            return Events(events, missed, last)

    @property
    def last_sequence(self) -> int:
        """Sequence number of the last event; 0 before the first."""
        return self._sequence

    @property
    def first_sequence(self) -> int:
        """Sequence number of the oldest event in memory, or of the next event without any."""
        with self._lock:
            return self._sequence - len(self._events) + 1
