"""The thread that writes published events to the files of remembered events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.state.event_archive import EventArchive
from hostmanager_server.state.event_lines import EpochMark, encode_entry, encode_mark
from hostmanager_server.state.event_segments import EventLimits, SegmentWriter
from hostmanager_server.state.store import Events, Store

log = logging.getLogger(__name__)

# Events of so many s go into one write, so that a crash loop or a stop of all costs few writes.
_GATHERING = 0.02
# The longest time, in s, that a written event waits for the disk; only a loss of power matters.
_SYNC_EVERY = 5.0
_PATIENCE = 5.0  # s at the end of the daemon
RETRY = 3.0  # s between attempts after an error
_BATCH = 500  # events in one write


class EventWriter:
    """Copies each event from the store to the archive, on one thread.

    The publishing thread never waits. While the disk refuses a write, the events stay in memory, as far as
    the store keeps them; the writer tries again every `retry` s, and `listen` tells of the problem.
    """

    def __init__(
        self,
        store: Store,
        archive: EventArchive,
        limits: EventLimits = EventLimits(),  # noqa: B008 - frozen
        *,
        retry: float = RETRY,
    ) -> None:
        self._store = store
        self._archive = archive
        self._retry = retry
        self._segments = SegmentWriter(archive.folder, limits)
        self._listener: Callable[[str], None] = lambda _: None
        self._problem = ""
        self._written = archive.last
        self._requested = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-writer", daemon=True)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Notify `listener`, on the writer's thread, of a problem, and with an empty text of its end.

        Call before `start`.
        """
        self._listener = listener

    def start(self) -> None:
        """Start the thread."""
        self._store.subscribe(self._published)
        self._thread.start()

    def close(self) -> None:
        """Write all events and the mark of an orderly end; give up on a disk that takes longer than 5 s."""
        if self._thread.is_alive():
            self._store.unsubscribe(self._published)
            self._closing.set()
            self._requested.set()
            self._thread.join(_PATIENCE)

    def _published(self) -> None:
        if self._store.last_sequence != self._written and not self._problem:
            self._requested.set()

    # --- on the writer's thread

    def _run(self) -> None:
        name_this_thread("event-writer")
        unsynced_since: float | None = None
        while True:
            self._requested.wait(self._pause(unsynced_since))
            self._requested.clear()
            closing = self._closing.wait(_GATHERING)
            wrote = self._write_all(closing=closing)
            if wrote and unsynced_since is None:
                unsynced_since = time.monotonic()
            due = unsynced_since is not None and time.monotonic() >= unsynced_since + _SYNC_EVERY
            if (due or closing) and self._try(self._segments.sync):
                unsynced_since = None
            if closing:
                self._segments.close()
                return

    def _pause(self, unsynced_since: float | None) -> float | None:
        """Return how long the thread may sleep, in s."""
        if self._problem:
            return self._retry
        if unsynced_since is None:
            return None
        return max(0.0, unsynced_since + _SYNC_EVERY - time.monotonic())

    def _write_all(self, *, closing: bool) -> bool:
        """Write what the store has published; return whether anything was written."""
        wrote = False
        while self._store.last_sequence > self._written:
            batch = self._store.events_since(self._written, _BATCH)
            if not self._try(partial(self._append_events, batch)):
                return wrote
            self._written, wrote = batch.last, True
        if closing and self._written > self._archive.last:
            mark = EpochMark(self._archive.epoch, self._written + 1, closed=True)
            self._try(partial(self._append, [encode_mark(mark)], self._written))  # into the same file
        return wrote

    def _append_events(self, batch: Events) -> None:
        self._append([encode_entry(each) for each in batch.events], batch.events[0].sequence)

    def _append(self, lines: list[bytes], first: int) -> None:
        header = encode_mark(EpochMark(self._archive.epoch, first))
        self._segments.append(lines, header, first, time.time())

    def _try(self, work: Callable[[], None]) -> bool:
        """Run work on the disk; report a failure of the disk, and return whether it worked."""
        try:
            work()
        except OSError as error:
            why = error.strerror or str(error)
            self._report(
                f"cannot keep the events in {self._archive.folder}: {why}; the next daemon will lack them. "
                f"Make room or repair the directory; the daemon tries again every {self._retry:g} s"
            )
            return False
        except Exception:  # a bug: only these events are missing
            log.exception("cannot keep some events in %s: a bug of the daemon", self._archive.folder)
        self._report("")
        return True

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._listener(problem)
