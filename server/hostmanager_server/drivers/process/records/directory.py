"""Runtime records: the file per run by which the next daemon finds what this one started.

A record is also the run's lock: the agent inherits a descriptor of the file that holds an flock, and
whoever of its tree keeps that open keeps the lock, however it hides otherwise. The descriptor is read-only:
an agent cannot forge what the daemon will act upon. Only its gate may write: that it was released.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path

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
from hostmanager_server.drivers.process.records.record import READY_AT, RELEASED_AT, Record

# How the kernel answers where a link, a socket, a pipe or a directory is in the place of a record.
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not yet valid. `lock` is for the child to inherit, and `flag` for its gate, to note
    there that it was released; `close` both descriptors in the end."""

    lock: int
    flag: int  # of the file, its offset where that flag is
    _free: str
    _final: str

    def commit(self, record: Record) -> None:
        """Makes the record valid at once, or not at all. Raises OSError.

        It is not synced: what a power cut loses, the boot id would have voided.
        """
        data = record.to_json()
        data += b" " * (os.fstat(self.flag).st_size - len(data))  # over what stood there before
        at = 0
        try:
            while at < len(data):
                at += os.pwrite(self.flag, data[at:], at)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._free) from error
        os.rename(self._free, self._final)

    def mark_released(self) -> None:
        """Note in the valid record that the agent was let out of the gate. Raises OSError."""
        os.pwrite(self.flag, b"1", RELEASED_AT)

    def close(self) -> None:
        os.close(self.flag)
        os.close(self.lock)


class RecordDirectory:
    """The directory of records, one file per instance, readable by the daemon's user only.

    A record is called `*.json` from the release of its run to the end of it. Before and after, its file is
    called `*.free` and kept for the instance's next run: to create and remove one each time costs ten times
    as much.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unvoided: dict[str, None] = {}  # paths of records that are void, and could not be renamed
        # Descriptors of files that a run has the lock of, by the path of the instance's record: where they
        # were removed; and of those that could not be read, wherever they are.
        self._removed: dict[str, int] = {}
        self._unreadable: dict[str, int] = {}
        secure_directory(directory)

    def draft(self, instance_id: str) -> Draft:
        """Opens a locked draft for the next run of an instance. Raises OSError."""
        final = self._path(instance_id)
        free = _free(final)
        self._void(*self._unvoided)
        try:
            draft = _open_draft(free, final)
        except FileNotFoundError:  # somebody cleaned up: that must not keep agents from starting
            secure_directory(self._directory)
            draft = _open_draft(free, final)
        except OSError as error:
            # Locked by a gate that an earlier daemon died over, which is leaving, or by a process that was
            # passed the descriptor; or something else has that name.
            if not (isinstance(error, BlockingIOError | NotOurRecordError) or error.errno in _NO_FILE):
                raise
            os.unlink(free)
            draft = _open_draft(free, final)
        self._unvoided.pop(final, None)  # it takes the place of that one
        self._forget(self._removed, final)
        return draft

    def mark(self, instance_id: str, *, ready: bool) -> None:
        """Note in the instance's record that its agent was let out of the gate, and whether it is ready.
        Where that cannot be written, the next daemon looks for itself."""
        with contextlib.suppress(OSError):
            file = open_record(self._path(instance_id), os.O_WRONLY)
            try:
                os.pwrite(file, b"1", RELEASED_AT)
                if ready:
                    os.pwrite(file, b"1", READY_AT)
            finally:
                os.close(file)

    def is_locked(self, instance_id: str) -> bool:
        """Whether anybody still holds the lock of the instance's latest run. Raises OSError (no
        descriptors)."""
        path = self._path(instance_id)
        removed = self._removed.get(path)
        return _is_locked(path) if removed is None else is_locked(removed)

    def unreadable(self, instance_id: str) -> list[int] | None:
        """The pids, as far as they are known, of a run of the instance of which nothing else is known, as its
        record could not be read; None when nothing of one is alive. Raises OSError."""
        path = self._path(instance_id)
        file = self._unreadable.get(path)
        if file is None:
            return None
        if is_locked(file):
            return holders_of(file)
        self._forget(self._unreadable, path)
        return None

    def describe_holders(self, instance_id: str) -> str:
        """Name, for a message, the processes that hold the lock of the instance's latest run."""
        path = self._path(instance_id)
        file = self._removed.get(path)
        try:
            pids = lock_holders((os.stat(path) if file is None else os.fstat(file)).st_ino)
        except OSError:
            pids = []
        return f"pid {', '.join(map(str, pids))}" if pids else "a process that this user may not inspect"

    def remove(self, instance_id: str) -> None:
        """Makes the record void, if there is one. Where that cannot be done (a read-only disk) it is done
        later: the run is over all the same, and a daemon that finds its record finds nothing alive."""
        self._void(*self._unvoided, self._path(instance_id))

    def _void(self, *paths: str) -> None:
        for path in paths:
            self._forget(self._removed, path)
            try:
                os.rename(path, _free(path))
            except FileNotFoundError:
                self._unvoided.pop(path, None)
            except OSError as error:
                if not self._unvoided:
                    _log.error(
                        "cannot void the runtime record '%s': %s; should the daemon die, the next one tells "
                        "of that run's end again",
                        path,
                        error.strerror,
                    )
                self._unvoided[path] = None
            else:
                self._unvoided.pop(path, None)

    def read(self) -> list[Record]:
        """Every record there is, also those that somebody removed while their runs went on. What is no record
        is set aside as `*.corrupt`, and logged. Raises OSError: a record that cannot be read now is not to be
        taken for one that is not there."""
        for name in os.listdir(self._directory):
            if name.endswith(".free"):
                with contextlib.suppress(OSError):  # read-only
                    os.unlink(self._directory / name)
        by_path: dict[str, list[RecordFile]] = {}
        for file in find_record_files(self._directory):
            by_path.setdefault(_final(file.path), []).append(file)
        chosen = (self._choose(path, files) for path, files in by_path.items())
        return [record for record in chosen if record is not None]

    def _choose(self, path: str, files: list[RecordFile]) -> Record | None:
        """The record of one instance, out of all files that are or were its: of a run that is alive, if there
        is one. It is put in its place if it is not there."""
        records = [(file.record, file) for file in files if file.record is not None]
        in_place = next((one for one in records if one[1].in_directory and one[1].path == path), None)
        alive = [one for one in records if one[1].locked]
        best = max(alive, key=lambda one: (one is in_place, one[0].started.mono), default=in_place)
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
            return in_place[0]  # which may have been marked since it was written again
        _put_back(file, path)
        return record

    def _reject(self, path: str, file: RecordFile) -> None:
        if file.in_directory and file.path == path:
            _set_aside(path, file.problem)
        elif not file.in_directory:
            _log.error("cannot read the runtime record '%s', which was removed: %s", file.path, file.problem)
        if file.file is not None:
            self._forget(self._unreadable, path)
            self._unreadable[path] = file.file

    def close(self) -> None:
        """Let go of what is held open."""
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
    """Whether there was a daemon that kept its records in this directory, which may have been removed."""
    try:
        return directory.exists() or any_removed(directory)
    except OSError:
        return True  # for all that is known


def _free(final: str) -> str:
    return final.removesuffix(RECORD) + ".free"


def _open_draft(free: str, final: str) -> Draft:
    file = open_record(free, os.O_WRONLY | os.O_CREAT)
    try:
        os.lseek(file, RELEASED_AT, os.SEEK_SET)
        lock = open_record(free, os.O_RDONLY)
    except OSError:
        os.close(file)
        raise
    draft = Draft(lock, file, free, final)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        draft.close()
        raise
    return draft


def _put_back(file: RecordFile, path: str) -> None:
    """Have the record of a run that is alive where it belongs, and say so."""
    try:
        if file.in_directory:
            os.rename(file.path, path)
            _log.warning("the runtime record '%s' can be read: it is '%s' again", file.path, path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_free(path))
            with open(open_record(_free(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as copy:
                copy.write(file.data)
            os.rename(_free(path), path)
            _log.warning(
                "the runtime record '%s' was removed while its run goes on; it is written again", path
            )
    except OSError as error:  # the next daemon finds it as this one did
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
        _log.error("cannot read the runtime record '%s' (%s) nor set it aside: %s", path, why, error)
    else:
        _log.error("cannot read the runtime record '%s': %s; it is now '%s'", path, why, aside)
