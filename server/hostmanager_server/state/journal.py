"""The journal: durable target states, manager state and instance histories, written by one thread.

The runtime records of the drivers hold the running processes; the journal holds everything else that the
next daemon needs.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Hold
from hostmanager_server.core.origin import RequestOrigins
from hostmanager_server.core.spec import Target
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.state.hold_rows import hold_rows
from hostmanager_server.state.journal_contents import JournalContents, contents_of
from hostmanager_server.state.journal_errors import describe_failure
from hostmanager_server.state.rows import ORIGIN_KEY, Rows, encode_history, encode_origins, read_rows
from hostmanager_server.state.schema import JournalUnusableError, Table, connect, is_damage, transaction

log = logging.getLogger(__name__)

# The wait, in s, before the journal tries a failed write again.
RETRY = 3.0


class Journal:
    """One SQLite file (WAL, synchronous=FULL), written by one thread in the order of the calls.

    The thread writes all waiting changes in one transaction. Changes that could not be written stay pending:
    the next change takes them along, and the thread tries again every `retry` s, so the file never holds a
    later change without the earlier ones. The journal sets an unusable file aside, logs an error and starts
    an empty file; running instances stay untouched. A file that another process replaces or removes while
    the daemon runs is written again completely.
    """

    def __init__(self, path: Path, boot_id: str, *, retry: float = RETRY) -> None:
        """Prepare a journal at `path`; nothing is opened before `open`. `retry` is in s."""
        self._path = path
        self._boot_id = boot_id
        self._retry = retry
        self._listener: Callable[[str], None] = lambda _: None
        self._begun = False  # this daemon has saved something
        self._ended = False
        self._thread: threading.Thread | None = None
        # Shared by the callers and the thread:
        self._requests = threading.Condition()
        self._waiting: list[Future[None]] = []
        self._unwritten = Rows()
        self._closing = False
        # Used by the thread alone:
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)  # device and inode of the open file
        self._written = Rows()  # the content of the file
        self._problem = ""

    def open(self) -> JournalContents:
        """Read the file and start the thread that takes changes.

        The content stays unchanged until the first `save`, so a daemon that fails to start leaves no trace.
        Waits for the disk. Raises sqlite3.OperationalError or OSError when the file cannot be used.
        """
        try:
            recovered = self._read()
        except (JournalUnusableError, sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError) and not is_damage(error):
                raise  # no permission, no space: setting the file aside would lose its content
            self._disconnect()
            aside = self._set_aside(error)
            self._connect()
            recovered = JournalContents(lost=f"{error}; the journal set the file aside as {aside}")
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()
        return recovered

    def listen(self, listener: Callable[[str], None]) -> None:
        """Notify `listener`, on the journal's thread, whenever the problem with the journal changes.

        The argument is a sentence that describes the problem, or empty once writing works again.
        """
        with self._requests:
            self._listener = listener
            if self._problem:
                listener(self._problem)

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] = MappingProxyType({}),
        histories: Mapping[str, History] = MappingProxyType({}),
        origins: Mapping[str, RequestOrigins | None] = MappingProxyType({}),
        forget: Sequence[str] = (),
        forget_histories: Sequence[str] = (),
        holds: Mapping[str, Hold | None] = MappingProxyType({}),
    ) -> Future[None]:
        """Store a change; return at once. None in `holds` deletes a hold.

        Origins of None are deleted. `forget` and `forget_histories` name instances to delete. The future is
        done once the change and all earlier changes are on disk. The future fails with sqlite3.Error or
        OSError after a failed attempt; the journal tries again all the same.
        """
        rows = Rows()
        if manager is not None:
            rows.of[Table.META]["manager"] = manager.value
        rows.of[Table.META].update(
            {
                ORIGIN_KEY + i: encode_origins(given) if given is not None else None
                for i, given in origins.items()
            }
        )
        rows.of[Table.TARGETS].update({i: target.value for i, target in targets.items()})
        rows.of[Table.TARGETS].update(dict.fromkeys(forget))
        if not self._ended:  # after an orderly end the next daemon starts without histories
            rows.of[Table.HISTORY].update({i: encode_history(h) for i, h in histories.items()})
        rows.of[Table.HISTORY].update(dict.fromkeys(forget_histories))
        rows.of[Table.META].update(hold_rows(holds))
        return self._enqueue(rows)

    def discard(self, *, targets: bool, histories: bool) -> None:
        """Delete the recovered targets or histories, together with the first change."""
        rows = Rows()
        for table, discarded in ((Table.TARGETS, targets), (Table.HISTORY, histories)):
            if discarded:
                rows.of[table].update(dict.fromkeys(self._written.of[table]))
        if targets:
            of_targets = (key for key in self._written.of[Table.META] if key.startswith(ORIGIN_KEY))
            rows.of[Table.META].update(dict.fromkeys(of_targets))
        with self._requests:
            self._unwritten.update(rows)

    def end(self) -> Future[None]:
        """Store that the daemon was asked to end, so that the next daemon does not count it as died.

        Later saves belong to the end and add no histories.
        """
        self._ended = True
        rows = Rows()
        rows.of[Table.META].update(ended="yes", boot_id=self._boot_id)
        return self._enqueue(rows)

    def close(self) -> None:
        """Write all earlier changes and close the file. Waits for the disk."""
        if self._thread is None:
            return
        with self._requests:
            self._closing = True
            self._requests.notify()
        self._thread.join()

    def _enqueue(self, rows: Rows) -> Future[None]:
        future: Future[None] = Future()
        with self._requests:
            if rows and not self._begun:
                self._begun = True
                rows.of[Table.META].setdefault("ended", "no")
                rows.of[Table.META]["boot_id"] = self._boot_id
            self._unwritten.update(rows)
            self._waiting.append(future)
            self._requests.notify()
        return future

    def _read(self) -> JournalContents:
        try:
            self._connect()
        except sqlite3.OperationalError as error:
            if is_damage(error) or not self._path.exists():
                raise
            # The disk has no space for the WAL index: read without it, and catch up with writing later.
            db = connect(self._path, exclusive=True)
            self._written = read_rows(db)
            db.close()
            self._problem = describe_failure(self._path, error, self._retry)
        return contents_of(self._written)

    def _connect(self) -> None:
        self._db = connect(self._path)
        self._file = _identity(self._path)
        self._written = read_rows(self._db)

    # --- on the journal's thread

    def _run(self) -> None:
        name_this_thread("journal")
        while True:
            closing, due, waiting, rows = self._next_batch()
            failure = self._try(rows) if due and (rows or self._db is None) else None
            if failure is not None:
                self._put_back(rows)
            self._notify(failure)
            for future in waiting:
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)
            if closing:
                if failure is not None:
                    log.error("closed the journal %s without its last changes: %s", self._path, failure)
                self._disconnect()
                return

    def _next_batch(self) -> tuple[bool, bool, list[Future[None]], Rows]:
        """Wait for work, and return whether to close, whether to write, the futures and the rows."""
        with self._requests:
            self._requests.wait_for(
                lambda: self._waiting or self._closing, self._retry if self._problem else None
            )
            # Rows of `discard` alone wait for a change to go with.
            due = bool(self._waiting or self._problem)
            waiting, self._waiting = self._waiting, []
            rows = self._unwritten
            if due:
                self._unwritten = Rows()
            return self._closing, due, waiting, rows

    def _put_back(self, rows: Rows) -> None:
        """Keep rows that could not be written, below the changes that arrived since."""
        with self._requests:
            rows.update(self._unwritten)
            self._unwritten = rows

    def _try(self, rows: Rows) -> Exception | None:
        try:
            self._write(rows)
        except (sqlite3.Error, OSError, JournalUnusableError) as error:
            self._disconnect()  # the next attempt opens a new connection, in a known state
            if isinstance(error, JournalUnusableError) or (
                isinstance(error, sqlite3.DatabaseError) and is_damage(error)
            ):
                with suppress(OSError):  # the next attempt reports the error
                    self._set_aside(error)
            return error
        except Exception as error:  # a bug: notify the waiting callers and keep the thread running
            log.exception("cannot write the journal %s: a bug of the daemon", self._path)
            self._disconnect()
            return error
        self._written.update(rows)
        self._written.drop_deleted()
        return None

    def _write(self, rows: Rows) -> None:
        reached(Point.COMMITTING)
        if self._db is not None and self._file != _identity(self._path):
            self._disconnect()  # the file was removed or replaced
        if self._db is None:
            self._db = connect(self._path)
            self._file = _identity(self._path)
            found = read_rows(self._db)
            if found != self._written:
                rows = _rewrite(found, self._written, rows)
        with transaction(self._db):
            rows.write(self._db)
        reached(Point.COMMITTED)

    def _disconnect(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _set_aside(self, error: Exception) -> Path:
        aside = self._path.with_name(f"{self._path.name}.{time.strftime('%Y%m%dT%H%M%S')}.corrupt")
        log.error("cannot use the journal %s (%s): set the file aside as %s", self._path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.rename(f"{aside}{suffix}")
        return aside

    def _notify(self, failure: Exception | None) -> None:
        problem = describe_failure(self._path, failure, self._retry) if failure is not None else ""
        with self._requests:
            if problem != self._problem:
                self._problem = problem
                self._listener(problem)


def _rewrite(found: Rows, written: Rows, change: Rows) -> Rows:
    """Return the change that turns the rows found in a file into the expected ones with `change` on top."""
    rows = Rows({table: dict.fromkeys(present) for table, present in found.of.items()})
    rows.update(written)
    rows.update(change)
    return rows


def _identity(path: Path) -> tuple[int, int]:
    """Return device and inode of a file, or (0, 0) when there is none. Raises OSError."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino
