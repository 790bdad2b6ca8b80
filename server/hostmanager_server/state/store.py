"""The store: the newest snapshot with the revision of each last change, for any thread to read.

One thread publishes; everyone else reads. A watcher holds only a cursor (a revision, or an event's
sequence number) and asks what came after it, so no watcher can make the store grow.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.manager_status import ManagerStatus
from hostmanager_server.core.model import Instance

# Removals and events remembered. An event is some 300 bytes, a removal some 100.
REMOVALS_KEPT = 10_000
EVENTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Tracked:
    """An instance as published, and the revision of its last change."""

    instance: Instance
    revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All there was at one revision."""

    revision: int
    manager: ManagerStatus
    instances: Mapping[str, Tracked]


@dataclass(frozen=True, slots=True)
class StoreChanges:
    """What changed after a revision, up to `revision`. `manager` is None when it did not change."""

    revision: int
    instances: tuple[Tracked, ...]
    removed: tuple[str, ...]
    manager: ManagerStatus | None

    @property
    def empty(self) -> bool:
        return not self.instances and not self.removed and self.manager is None


@dataclass(frozen=True, slots=True)
class PublishedEntry:
    """Something that happened. `sequence` counts from 1 within one epoch."""

    sequence: int
    revision: int
    entry: LogEntry


@dataclass(frozen=True, slots=True)
class Events:
    """Events after a sequence number, oldest first; `missed` of them are no longer kept."""

    events: tuple[PublishedEntry, ...]
    missed: int
    last: int  # the sequence number to go on from


class Store:
    """See the module. `epoch` names this store's life: revisions of different epochs cannot be compared."""

    def __init__(
        self,
        epoch: str,
        manager: ManagerStatus,
        *,
        removals_kept: int = REMOVALS_KEPT,
        events_kept: int = EVENTS_KEPT,
    ) -> None:
        self.epoch = epoch
        self._lock = threading.Lock()
        self._revision = 1
        self._manager = manager
        self._manager_revision = 1
        # Ordered by the revision of the last change, so that "what changed since" reads only what did.
        self._instances: OrderedDict[str, Tracked] = OrderedDict()
        self._removals: OrderedDict[str, int] = OrderedDict()
        self._removals_kept = removals_kept
        self._compacted = 0  # removals up to this revision may be forgotten
        self._events: deque[PublishedEntry] = deque(maxlen=events_kept)
        self._sequence = 0
        self._snapshot: Snapshot | None = None
        self._listeners: list[Callable[[], None]] = []

    # --- the one writer

    def publish(
        self,
        changed: Iterable[Instance] = (),
        removed: Iterable[str] = (),
        manager: ManagerStatus | None = None,
        entries: Iterable[LogEntry] = (),
    ) -> int:
        """Make changes visible, all under one new revision, which is returned; then wake the listeners."""
        with self._lock:
            self._revision += 1
            revision = self._revision
            for instance in changed:
                self._instances[instance.instance_id] = Tracked(instance, revision)
                self._instances.move_to_end(instance.instance_id)
                self._removals.pop(instance.instance_id, None)
            for instance_id in removed:
                if self._instances.pop(instance_id, None) is not None:
                    self._removals[instance_id] = revision
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
        """Call `listener` after every publication, on the publishing thread. It must return at once."""
        self._listeners = [*self._listeners, listener]

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        self._listeners = [known for known in self._listeners if known is not listener]

    # --- any reader

    @property
    def revision(self) -> int:
        return self._revision

    def snapshot(self) -> Snapshot:
        """All there is now. The mapping is never changed afterwards."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = Snapshot(self._revision, self._manager, dict(self._instances))
            return self._snapshot

    def changes_since(self, revision: int) -> StoreChanges | None:
        """What changed after `revision`; None when removals since then are forgotten, or it lies ahead."""
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
        """Events after `sequence`, at most `limit` of them."""
        with self._lock:
            first = self._sequence - len(self._events) + 1
            missed = max(0, first - 1 - sequence)
            skip = max(0, sequence + 1 - first)
            stop = None if limit is None else skip + limit
            events = tuple(islice(self._events, skip, stop))
            last = events[-1].sequence if events else max(sequence, first - 1)
            return Events(events, missed, last)

    @property
    def last_sequence(self) -> int:
        return self._sequence
