"""All events that readers may ask for: the newest in memory, older ones in files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from hostmanager_server.core.event_selection import EventSelection
from hostmanager_server.state.event_archive import EventArchive, Resumption
from hostmanager_server.state.store import Events, PublishedEntry, Store


class EventHistory:
    """Readers of the event log. Any thread may call any method.

    `after` and `newest` may read files, which takes up to some 100 ms; `after` does not for a position in
    memory.
    """

    def __init__(self, store: Store, archive: EventArchive) -> None:
        self._store = store
        self._archive = archive

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._store.last_sequence

    @property
    def oldest(self) -> int:
        """The number of the oldest event that may be kept."""
        return min(self._archive.oldest, self._store.first_sequence)

    def in_memory(self, sequence: int) -> bool:
        """Return whether `after` needs no file for the events after this number."""
        return sequence >= self._store.first_sequence - 1

    def after(self, sequence: int, selection: EventSelection, limit: int) -> Events:
        """Return at most `limit` selected events with greater numbers, oldest first."""
        kept = self._store.events_since(sequence)
        older = Events((), 0, sequence)
        if kept.missed:  # the memory begins later
            older = self._archive.after(sequence, sequence + kept.missed + 1, selection, limit)
        room = limit - len(older.events)
        if not room:
            return older
        newer = tuple(islice((each for each in kept.events if selection.takes(each.entry)), room))
        last = newer[-1].sequence if len(newer) == room else kept.last
        return Events((*older.events, *newer), older.missed, last)

    def newest(self, selection: EventSelection) -> Iterator[PublishedEntry]:
        """Yield the selected events, newest first."""
        before = self._store.first_sequence
        kept = self._store.events_since(before - 1).events
        yield from (each for each in reversed(kept) if selection.takes(each.entry))
        first = kept[0].sequence if kept else before
        yield from self._archive.newest(first, selection)

    def before_newest(self, count: int, selection: EventSelection) -> int:
        """Return the number before the `count` newest selected events."""
        if selection.everything:
            return max(0, self.last - count)
        last = self.last
        for each in islice(self.newest(selection), count):
            last = each.sequence - 1
        return last

    def resume(self, epoch: str, position: int) -> Resumption | None:
        """Return where a reader of an earlier epoch continues; None for an unknown epoch."""
        return self._archive.resume(epoch, position)
