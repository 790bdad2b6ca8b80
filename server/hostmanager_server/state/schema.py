"""The database schema of the journal, and the migrations from each version to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from hostmanager_server.state.private_file import make_private

# Step n leads from version n to n + 1. A released step never changes, as files that it wrote exist.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE targets (instance_id TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID",
    ),
    ("CREATE TABLE history (instance_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID",),
)
VERSION = len(STEPS)

# How long, in s, another process (a backup, an operator's sqlite3) may lock the file before a write fails.
BUSY = 5.0


class Table(Enum):
    """The tables of the journal; each maps a text to a text."""

    META = "meta"
    TARGETS = "targets"
    HISTORY = "history"


class JournalUnusableError(Exception):
    """The file exists, but is no journal that this version can read."""


def connect(path: Path, *, exclusive: bool = False) -> sqlite3.Connection:
    """Open the journal file, creating or migrating the database where needed.

    With `exclusive`, no other process can open the file, and opening needs no space on the disk. Raises
    JournalUnusableError for a file that holds no usable journal, NotOursError for a link in its place, and
    sqlite3.OperationalError when the disk or the permissions do not allow its use.
    """
    make_private(path)
    db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        if exclusive:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # keeps the WAL index in memory, not in a file
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise JournalUnusableError(
                f"a newer version wrote the file (schema {version}; this version knows {VERSION})"
            )
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalUnusableError(f"the file is damaged: {verdict}")
        for number in range(version, VERSION):
            _migrate(db, number)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
            raise JournalUnusableError(str(error)) from error
        raise
    return db


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether the error is about the content of the file, not about the disk below."""
    # A missing table or column gives SQLITE_ERROR.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR


def _migrate(db: sqlite3.Connection, version: int) -> None:
    with transaction(db):
        for statement in STEPS[version]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version={version + 1}")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction: commit at its end, or roll back when anything fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with suppress(
                sqlite3.Error
            ):  # the caller gets the first error; SQLite rolls back at the next open
                db.execute("ROLLBACK")
        raise
