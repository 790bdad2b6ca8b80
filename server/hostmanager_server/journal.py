"""The journal: what was asked of the manager, on disk before the answer leaves.

It holds target states and the manager's own state; what runs is in the runtime records of the drivers.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hostmanager_server.core.manager import ManagerState
from hostmanager_server.core.spec import Target
from hostmanager_server.failpoints import Point, reached
from hostmanager_server.threads import name_this_thread

log = logging.getLogger(__name__)

VERSION = 1
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE targets (instance_id TEXT PRIMARY KEY, target TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an earlier daemon left: the state it was in when it ended.

    `ended` is True when it was asked to end, False when it died. `boot_id` is the boot it lived in.
    """

    manager: ManagerState = ManagerState.STOPPED
    ended: bool = True
    boot_id: str = ""
    targets: Mapping[str, Target] = field(default_factory=dict)


class Journal:
    """One SQLite file (WAL, synchronous=FULL), written by one thread in the order of the calls.

    A file that cannot be used is set aside, said loudly, and begun anew; nothing that runs is touched for it.
    """

    def __init__(self, path: Path, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id
        self._thread = ThreadPoolExecutor(1, "journal", name_this_thread, ("journal",))
        self._db: sqlite3.Connection | None = None
        self._begun = False

    def open(self) -> Recovered:
        """Read what there is. It stays as it is until the first `save`: a daemon that comes no further than
        this leaves no trace. Waits for the disk. Raises sqlite3.OperationalError when it cannot be used."""
        return self._thread.submit(self._open).result()

    def save(
        self,
        *,
        manager: ManagerState | None = None,
        targets: Mapping[str, Target] | None = None,
        forget: Sequence[str] = (),
    ) -> Future[None]:
        """Store a change; the future is done when it is on disk, and fails with sqlite3.Error when it cannot
        be stored. Returns at once."""
        return self._thread.submit(self._save, manager, dict(targets or {}), list(forget))

    def end(self) -> Future[None]:
        """Store that the daemon was asked to end, so that the next one does not take it for dead."""
        return self._thread.submit(self._end)

    def close(self) -> None:
        """Close the file, after what was asked before. Waits for the disk."""
        self._thread.submit(self._close).result()
        self._thread.shutdown()

    # --- on the journal's thread

    def _open(self) -> Recovered:
        try:
            self._db = _connect(self._path)
            recovered = self._read(self._db)
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # no permission, no space: setting it aside would lose it
            self._set_aside(error)
            self._db = _connect(self._path)
            recovered = Recovered()
        return recovered

    def _read(self, db: sqlite3.Connection) -> Recovered:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        return Recovered(
            manager=ManagerState(meta.get("manager", ManagerState.STOPPED.value)),
            ended=meta.get("ended", "yes") == "yes",
            boot_id=meta.get("boot_id", ""),
            targets={i: Target(t) for i, t in db.execute("SELECT instance_id, target FROM targets")},
        )

    def _save(self, manager: ManagerState | None, targets: dict[str, Target], forget: list[str]) -> None:
        assert self._db is not None
        reached(Point.COMMITTING)
        with self._db:
            if not self._begun:
                self._set_meta(ended="no", boot_id=self._boot_id)
            if manager is not None:
                self._set_meta(manager=manager.value)
            rows = [(instance_id, target.value) for instance_id, target in targets.items()]
            self._db.executemany("INSERT OR REPLACE INTO targets VALUES (?, ?)", rows)
            self._db.executemany("DELETE FROM targets WHERE instance_id = ?", [(i,) for i in forget])
        reached(Point.COMMITTED)
        self._begun = True

    def _end(self) -> None:
        assert self._db is not None
        try:
            with self._db:
                self._set_meta(ended="yes", boot_id=self._boot_id)
        except sqlite3.Error as error:
            log.error("cannot note in %s that the daemon was asked to end: %s", self._path, error)
        self._begun = True  # what is saved from now on is part of the end

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _set_meta(self, **values: str) -> None:
        assert self._db is not None
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def _set_aside(self, error: Exception) -> None:
        if self._db is not None:
            self._db.close()
        aside = self._path.with_name(f"{self._path.name}.{time.strftime('%Y%m%dT%H%M%S')}.corrupt")
        log.error("cannot use the journal %s (%s): it is set aside as %s", self._path, error, aside)
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.rename(f"{aside}{suffix}")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise ValueError(
                f"it was written by a newer version (schema {version}, this one knows {VERSION})"
            )
        if version == 0:
            with db:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db
