"""The directory of runtime records, by which the next daemon finds all runs.

A record is also the lock of its run: the agent inherits a descriptor of the file that holds an flock, and
every process of the tree that keeps the descriptor open keeps the lock, even a process that hides in every
other way. The descriptor is read-only: an agent cannot forge a record. Only the gate gets a writable
descriptor, to note its release.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from hostmanager_server.drivers.process.records.draft import Draft, free_path, open_draft
from hostmanager_server.drivers.process.records.files import (
    ASIDE,
    OPEN_FLAGS,
    RECORD,
    RecordFile,
    any_removed,
    file_name,
    find_record_files,
    open_record,
    secure_directory,
)
from hostmanager_server.drivers.process.records.holders import (
    NotOurRecordError,
    holders_of,
    is_locked,
    lock_holders,
)
from hostmanager_server.drivers.process.records.record import (
    IDENTITY_AT,
    READY_AT,
    RELEASED_AT,
    Record,
    identity_text,
)
from hostmanager_server.linux.pidfds import Identity

# Errors of open(2) for a link, a socket or a directory in the place of a record.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)

_log = logging.getLogger(__name__)


class RecordDirectory:
    """The records of all runs, one file per instance, for the daemon's user only.

    A record has the name `*.json` while its run lives. Otherwise its file has the name `*.free`, as a spare
    for the next run of the instance: creating and removing a file each time costs ten times as much.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unvoided: dict[str, None] = {}  # paths of void records that could not be renamed
        # Descriptors of files that a run has locked, by the path of the instance's record: of removed
        # files, and of unreadable files wherever they are.
        self._removed: dict[str, int] = {}
        self._unreadable: dict[str, int] = {}
        secure_directory(directory)

    def draft(self, instance_id: str) -> Draft:
        """Open a locked draft for the next run of an instance. Raises OSError."""
        final = self._path(instance_id)
        free = free_path(final)
        self._void(*self._unvoided)
        try:
            draft = open_draft(free, final)
        except FileNotFoundError:  # the directory was removed: agents must start nevertheless
            secure_directory(self._directory)
            draft = open_draft(free, final)
        except OSError as error:
            # The file is locked by a leaving gate of an earlier daemon, or by a process that got the
            # descriptor passed; or something other than a file has the name.
            if not (isinstance(error, BlockingIOError | NotOurRecordError) or error.errno in _NO_FILE):
                raise
            os.unlink(free)
            draft = open_draft(free, final)
        self._unvoided.pop(final, None)  # the new record will replace the void one
        self._forget(self._removed, final)
        return draft

    def mark(self, instance_id: str, *, ready: bool) -> None:
        """Note in a record that the agent has left the gate, and whether it is ready.

        Where the write fails, the next daemon finds out by itself.
        """
        with contextlib.suppress(OSError):
            file = open_record(self._path(instance_id), os.O_WRONLY)
            try:
                os.pwrite(file, b"1", RELEASED_AT)
                if ready:
                    os.pwrite(file, b"1", READY_AT)
            finally:
                os.close(file)

    def identify(self, instance_id: str, identity: Identity) -> None:
        """Note the numbers of the main process in a record that names only its pid.

        Where the write fails, the next daemon finds the numbers as this one did.
        """
        with contextlib.suppress(OSError):
            file = open_record(self._path(instance_id), os.O_WRONLY)
            try:
                os.pwrite(file, identity_text(identity), IDENTITY_AT)
            finally:
                os.close(file)

    def is_locked(self, instance_id: str) -> bool:
        """Return whether any process holds the lock of the instance's latest run.

        Raises OSError (no descriptors).
        """
        path = self._path(instance_id)
        removed = self._removed.get(path)
        return _is_locked(path) if removed is None else is_locked(removed)

    def unreadable(self, instance_id: str) -> list[int] | None:
        """Return the pids of a run with an unreadable record; None when none is alive.

        The list may lack processes that this user cannot inspect. Raises OSError.
        """
        path = self._path(instance_id)
        file = self._unreadable.get(path)
        if file is None:
            return None
        if is_locked(file):
            return holders_of(file)
        self._forget(self._unreadable, path)
        return None

    def describe_holders(self, instance_id: str) -> str:
        """Return, for a message, the processes that hold the lock of the latest run."""
        path = self._path(instance_id)
        file = self._removed.get(path)
        try:
            pids = lock_holders((os.stat(path) if file is None else os.fstat(file)).st_ino)
        except OSError:
            pids = []
        return f"pid {', '.join(map(str, pids))}" if pids else "a process that this user may not inspect"

    def remove(self, instance_id: str) -> None:
        """Void the record of an instance, if there is one.

        Where the rename fails (read-only disk), later calls try again. Meanwhile the record does no harm: a
        daemon that reads it finds no living process.
        """
        self._void(*self._unvoided, self._path(instance_id))

    def _void(self, *paths: str) -> None:
        for path in paths:
            self._forget(self._removed, path)
            try:
                os.rename(path, free_path(path))
            except FileNotFoundError:
                self._unvoided.pop(path, None)
            except OSError as error:
                if not self._unvoided:
                    _log.error(
                        "cannot void the runtime record '%s': %s; if the daemon dies, the next one reports "
                        "the end of that run again",
                        path,
                        error.strerror,
                    )
                self._unvoided[path] = None
            else:
                self._unvoided.pop(path, None)

    def read(self) -> list[Record]:
        """Return all valid records, including removed ones with living runs.

        Renames a file that is no record to `*.corrupt`, and logs an error. Raises OSError where a record
        cannot be read now: an unreadable record may belong to a living run.
        """
        for name in os.listdir(self._directory):
            if name.endswith(".free"):
                with contextlib.suppress(OSError):  # read-only disk
                    os.unlink(self._directory / name)
        by_path: dict[str, list[RecordFile]] = {}
        for file in find_record_files(self._directory):
            by_path.setdefault(_final(file.path), []).append(file)
        chosen = (self._choose(path, files) for path, files in by_path.items())
        return [record for record in chosen if record is not None]

    def _choose(self, path: str, files: list[RecordFile]) -> Record | None:
        """Return the valid record among all files that are or were an instance's record.

        A record with a living run wins. The function restores the file in its place.
        """
        records = [(file.record, file) for file in files if file.record is not None]
        in_place = next((pair for pair in records if pair[1].in_directory and pair[1].path == path), None)
        alive = [pair for pair in records if pair[1].locked]
        best = max(alive, key=lambda pair: (pair is in_place, pair[0].started.mono), default=in_place)
        for file in files:
            if file.record is None:
                self._reject(path, file)
            elif best is None or file is not best[1]:
                file.close()
        if best is None:
            return None
        record, file = best
        if file.file is not None:
            self._forget(self._removed, path)
            self._removed[path] = file.file
        if in_place is not None and in_place[0].token == record.token:
            return in_place[0]  # may have newer flags than the copy
        _put_back(file, path)
        return record

    def _reject(self, path: str, file: RecordFile) -> None:
        if file.in_directory and file.path == path:
            _set_aside(path, file.problem)
        elif not file.in_directory:
            _log.error("cannot read the removed runtime record '%s': %s", file.path, file.problem)
        if file.file is not None:
            self._forget(self._unreadable, path)
            self._unreadable[path] = file.file

    def close(self) -> None:
        """Close all descriptors of the directory."""
        for files in (self._removed, self._unreadable):
            for path in list(files):
                self._forget(files, path)

    @staticmethod
    def _forget(files: dict[str, int], path: str) -> None:
        file = files.pop(path, None)
        if file is not None:
            os.close(file)

    def _path(self, instance_id: str) -> str:
        return f"{self._directory}/{file_name(instance_id)}{RECORD}"


def has_records(directory: Path) -> bool:
    """Return whether a daemon has kept records in this directory, perhaps removed."""
    try:
        return directory.exists() or any_removed(directory)
    except OSError:
        return True  # possibly


def _put_back(file: RecordFile, path: str) -> None:
    """Restore the record of a living run in its place, and log a warning."""
    try:
        if file.in_directory:
            os.rename(file.path, path)
            _log.warning(
                "the runtime record '%s' is readable; the daemon renamed it to '%s'", file.path, path
            )
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(free_path(path))
            with open(open_record(free_path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as copy:
                copy.write(file.data)
            os.rename(free_path(path), path)
            _log.warning(
                "the runtime record '%s' of a running agent was removed; the daemon wrote it again", path
            )
    except OSError as error:  # the next daemon finds the record as this one did
        _log.warning("cannot write the runtime record '%s' again: %s", path, error.strerror)


def _is_locked(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    except OSError as error:
        if error.errno in (errno.ENOENT, *_NO_FILE):
            return False
        raise
    try:
        return is_locked(file)
    finally:
        os.close(file)


def _final(path: str) -> str:
    return path.removesuffix(ASIDE) + RECORD if path.endswith(ASIDE) else path


def _set_aside(path: str, why: str) -> None:
    aside = path.removesuffix(RECORD) + ASIDE
    try:
        os.rename(path, aside)
    except OSError as error:
        _log.error("cannot read the runtime record '%s' (%s), nor rename it: %s", path, why, error)
    else:
        _log.error("cannot read the runtime record '%s': %s; the daemon renamed it to '%s'", path, why, aside)
