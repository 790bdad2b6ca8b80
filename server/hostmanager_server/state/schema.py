"""The schema of the journal's file, with the steps from each version of it to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from hostmanager_server.state.private_file import make_private

# Step n leads from version n to n + 1. A step that was released is never changed: files written by it exist.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE targets (instance_id TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID",
    ),
    ("CREATE TABLE history (instance_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID",),
)
VERSION = len(STEPS)

# How long, in s, somebody else may hold the file (a backup, a curious operator) before a write fails.
BUSY = 5.0


class Table(Enum):
    """The tables; each maps a text to a text."""

    META = "meta"
    TARGETS = "targets"
    HISTORY = "history"


class JournalUnusableError(Exception):
    """The file is there, and is no journal that this version can read."""


def connect(path: Path, *, alone: bool = False) -> sqlite3.Connection:
    """Open the file, made or migrated where that is needed. `alone`: so that nobody else can, for which no
    room is needed on the disk. Raises JournalUnusableError, or sqlite3.OperationalError when the disk or its
    permissions do not let it be used, or NotOursError when a link is in its place."""
    make_private(path)
    db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        if alone:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # keeps the index of the WAL in memory, not in a file
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise JournalUnusableError(
                f"it was written by a newer version (schema {version}, this one knows {VERSION})"
            )
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalUnusableError(f"it is damaged: {verdict}")
        for number in range(version, VERSION):
            _migrate(db, number)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
            raise JournalUnusableError(str(error)) from error
        raise
    return db


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the error speaks of what the file holds, rather than of the disk that it is on."""
    # SQLITE_ERROR is what a missing table or column gives.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR


def _migrate(db: sqlite3.Connection, version: int) -> None:
    with transaction(db):
        for statement in STEPS[version]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version={version + 1}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: commits at the end; rolls back when that, or anything before it, fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with suppress(sqlite3.Error):  # what failed is told; SQLite itself undoes it when it is opened
                db.execute("ROLLBACK")
        raise
