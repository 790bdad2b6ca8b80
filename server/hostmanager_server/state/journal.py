"""The journal's one thread: writes in the order of the calls, tries again what could not be written.

The journal holds target states, the manager's own state, and what became of the instances; what runs is in
the runtime records of the drivers.
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
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from hostmanager_server.core.history import History
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.spec import Target
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.state.rows import Rows, decode_history, encode_history, read_rows
from hostmanager_server.state.schema import JournalUnusableError, Table, connect, is_damage, transaction

log = logging.getLogger(__name__)

# How long after a failure what could not be written is tried again, s.
RETRY = 3.0


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What an earlier daemon left: the state it was in when it ended.

    `ended` is True when it was asked to end, False when it died. `boot_id` is the boot it lived in. `lost`
    says why what it left cannot be known, when the file was set aside.
    """

    manager: ManagerState = ManagerState.STOPPED
    ended: bool = True
    boot_id: str = ""
    targets: Mapping[str, Target] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    new: bool = True  # nothing was ever stored there
    lost: str = ""


class Journal:
    """One SQLite file (WAL, synchronous=FULL), written by one thread in the order of the calls.

    Whatever waits is written in one transaction. What could not be written stays, is written with the next
    change, and is tried again by itself every `retry` s: the file never holds a later change without the
    earlier ones. A file that cannot be used is set aside, said loudly, and begun anew; nothing that runs is
    touched for it. One that is replaced or removed under the daemon is written whole again.
    """

    def __init__(self, path: Path, boot_id: str, *, retry: float = RETRY) -> None:
        self._path = path
        self._boot_id = boot_id
        self._retry = retry
        self._told: Callable[[str], None] = lambda _: None
        self._begun = False
        self._ended = False
        self._thread: threading.Thread | None = None
        # Between the callers and the thread:
        self._asked = threading.Condition()
        self._waiting: list[Future[None]] = []
        self._unwritten = Rows()
        self._closing = False
        # The thread's own:
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)  # device and inode of the file that is open
        self._written = Rows()  # what the file holds
        self._problem = ""

    def open(self) -> JournalContents:
        """Read what there is, and begin to take changes. The contents stay as they are until the first
        `save`: a daemon that comes no further than this leaves no trace. Waits for the disk. Raises
        sqlite3.OperationalError or OSError when it cannot be used."""
        try:
            recovered = self._read()
        except (JournalUnusableError, sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError) and not is_damage(error):
                raise  # no permission, no space: setting it aside would lose it
            self._disconnect()
            aside = self._set_aside(error)
            self._connect()
            recovered = JournalContents(lost=f"{error}; it is set aside as {aside}")
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()
        return recovered

    def listen(self, told: Callable[[str], None]) -> None:
        """Have `told` called, on the journal's thread, when it begins to fail, or does so in another way,
        with a sentence that says why; and with nothing when it works again."""
        with self._asked:
            self._told = told
            if self._problem:
                told(self._problem)

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] = MappingProxyType({}),
        histories: Mapping[str, History] = MappingProxyType({}),
        forget: Sequence[str] = (),
        forget_histories: Sequence[str] = (),
    ) -> Future[None]:
        """Store a change. The future is done when it, and all before it, is on disk, and fails with
        sqlite3.Error or OSError when that was tried in vain; it is tried again all the same. Returns at
        once."""
        rows = Rows()
        if manager is not None:
            rows.of[Table.META]["manager"] = manager.value
        rows.of[Table.TARGETS].update({i: target.value for i, target in targets.items()})
        rows.of[Table.TARGETS].update(dict.fromkeys(forget))
        if not self._ended:  # the next daemon is to begin anew
            rows.of[Table.HISTORY].update({i: encode_history(h) for i, h in histories.items()})
        rows.of[Table.HISTORY].update(dict.fromkeys(forget_histories))
        return self._ask(rows)

    def discard(self, *, targets: bool, histories: bool) -> None:
        """Forget, together with the first change, what an earlier daemon left of these."""
        rows = Rows()
        for table, wanted in ((Table.TARGETS, targets), (Table.HISTORY, histories)):
            if wanted:
                rows.of[table].update(dict.fromkeys(self._written.of[table]))
        with self._asked:
            self._unwritten.update(rows)

    def end(self) -> Future[None]:
        """Store that the daemon was asked to end, so that the next one does not take it for dead. What is
        saved from now on is part of the end."""
        self._ended = True
        rows = Rows()
        rows.of[Table.META].update(ended="yes", boot_id=self._boot_id)
        return self._ask(rows)

    def close(self) -> None:
        """Close the file, after what was asked before. Waits for the disk."""
        if self._thread is None:
            return
        with self._asked:
            self._closing = True
            self._asked.notify()
        self._thread.join()

    def _ask(self, rows: Rows) -> Future[None]:
        future: Future[None] = Future()
        with self._asked:
            if rows and not self._begun:
                self._begun = True
                rows.of[Table.META].setdefault("ended", "no")
                rows.of[Table.META]["boot_id"] = self._boot_id
            self._unwritten.update(rows)
            self._waiting.append(future)
            self._asked.notify()
        return future

    def _read(self) -> JournalContents:
        try:
            self._connect()
        except sqlite3.OperationalError as error:
            if is_damage(error) or not self._path.exists():
                raise
            # There is no room even to look: what there is can be read all the same, and is caught up with.
            db = connect(self._path, alone=True)
            self._written = read_rows(db)
            db.close()
            self._problem = self._describe(error)
        return _recovered(self._written)

    def _connect(self) -> None:
        self._db = connect(self._path)
        self._file = _identity(self._path)
        self._written = read_rows(self._db)

    # --- on the journal's thread

    def _run(self) -> None:
        name_this_thread("journal")
        while True:
            with self._asked:
                self._asked.wait_for(
                    lambda: self._waiting or self._closing, self._retry if self._problem else None
                )
                closing = self._closing
                # What was only discarded waits for a change to go with; see `discard`.
                due = bool(self._waiting or self._problem)
                waiting, self._waiting = self._waiting, []
                rows = self._unwritten
                if due:
                    self._unwritten = Rows()
            failure = self._try(rows) if due and (rows or self._db is None) else None
            if failure is not None:
                with self._asked:
                    rows.update(self._unwritten)
                    self._unwritten = rows
            self._tell(failure)
            for future in waiting:
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)
            if closing:
                if failure is not None:
                    log.error("the journal %s is closed without its last changes: %s", self._path, failure)
                self._disconnect()
                return

    def _try(self, rows: Rows) -> Exception | None:
        try:
            self._write(rows)
        except (sqlite3.Error, OSError, JournalUnusableError) as error:
            self._disconnect()  # whatever state it is in: the next try begins with a new one
            if isinstance(error, JournalUnusableError) or (
                isinstance(error, sqlite3.DatabaseError) and is_damage(error)
            ):
                with suppress(OSError):  # then the next try says so
                    self._set_aside(error)
            return error
        except Exception as error:  # a bug: whoever waits is to be told, and the thread to go on
            log.exception("writing the journal %s failed by a bug of the daemon", self._path)
            self._disconnect()
            return error
        self._written.update(rows)
        self._written.settle()
        return None

    def _write(self, rows: Rows) -> None:
        reached(Point.COMMITTING)
        if self._db is not None and self._file != _identity(self._path):
            self._disconnect()  # removed, or another was put in its place
        if self._db is None:
            self._db = connect(self._path)
            self._file = _identity(self._path)
            found = read_rows(self._db)
            if found != self._written:
                rows = _to_turn(found, self._written, rows)
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
        log.error("cannot use the journal %s (%s): it is set aside as %s", self._path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.rename(f"{aside}{suffix}")
        return aside

    def _tell(self, failure: Exception | None) -> None:
        problem = self._describe(failure) if failure is not None else ""
        with self._asked:
            if problem != self._problem:
                self._problem = problem
                self._told(problem)

    def _describe(self, failure: Exception) -> str:
        return (
            f"cannot write the journal {self._path}: {_in_words(failure)}; what is asked of the daemon is in "
            f"force, but would be forgotten if it died: {_remedy(failure)}; this is tried again every "
            f"{self._retry:g} s"
        )


def _recovered(rows: Rows) -> JournalContents:
    meta = rows.of[Table.META]
    return JournalContents(
        manager=ManagerState(meta.get("manager", ManagerState.STOPPED.value)),
        ended=meta.get("ended", "yes") == "yes",
        boot_id=meta.get("boot_id") or "",
        targets={i: Target(target) for i, target in rows.of[Table.TARGETS].items()},
        histories={i: decode_history(record or "") for i, record in rows.of[Table.HISTORY].items()},
        new=not meta,
    )


def _to_turn(found: Rows, written: Rows, change: Rows) -> Rows:
    """What makes of the rows found in a file those that should have been in it, with the change."""
    rows = Rows({table: dict.fromkeys(present) for table, present in found.of.items()})
    rows.update(written)
    rows.update(change)
    return rows


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode; (0, 0) when there is no such file. Raises OSError."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return status.st_dev, status.st_ino


def _in_words(failure: Exception) -> str:
    if isinstance(failure, sqlite3.Error) and (name := getattr(failure, "sqlite_errorname", "")):
        return f"{failure} ({name})"
    return str(failure)


def _remedy(failure: Exception) -> str:
    if isinstance(failure, sqlite3.Error):
        match getattr(failure, "sqlite_errorcode", 0) & 0xFF:  # the rest says where in SQLite
            case sqlite3.SQLITE_FULL:
                return "free some space there"
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN:
                return "see that the state directory is there and can be written"
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return "see who else holds the file"
    return "see to that disk, and whether it is full"
