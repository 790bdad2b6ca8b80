"""Runtime records: the file per run by which the next daemon finds what this one started.

A record is also the run's lock: the agent inherits a descriptor of the file that holds an flock, and
whoever of its tree keeps that open keeps the lock, however it hides otherwise. The descriptor is read-only:
an agent cannot forge what the daemon will act upon. Only its gate may write: that it was released.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .identity import read_file
from .record import READY_AT, RELEASED_AT, Record
from .removed import find_removed, is_locked

_LONGEST_NAME = 180  # a file name may have 255 bytes, suffixes included
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


class Records:
    """The directory of records, one file per instance, readable by the daemon's user only.

    A record is called `*.json` from the release of its run to the end of it. Before and after, its file is
    called `*.free` and kept for the instance's next run: to create and remove one each time costs ten times
    as much.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._not_void: dict[str, None] = {}  # paths of records that are void, and could not be renamed
        # Descriptors of the files that a run has the lock of, where those were removed, by their path.
        self._removed: dict[str, int] = {}
        self._make_directory()

    def draft(self, instance_id: str) -> Draft:
        """Opens a locked draft for the next run of an instance. Raises OSError."""
        final = self._path(instance_id)
        free = _free(final)
        self._void(*self._not_void)
        try:
            draft = _open_draft(free, final)
        except (BlockingIOError, FileNotFoundError) as error:
            if isinstance(error, BlockingIOError):  # a gate that an earlier daemon died over: it is leaving
                os.unlink(free)
            else:  # somebody cleaned up: that must not keep agents from starting
                self._make_directory()
            draft = _open_draft(free, final)
        self._not_void.pop(final, None)  # it takes the place of that one
        self._forget_removed(final)
        return draft

    def _make_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def mark(self, instance_id: str, *, ready: bool) -> None:
        """Note in the instance's record that its agent was let out of the gate, and whether it is ready.
        Where that cannot be written, the next daemon looks for itself."""
        with contextlib.suppress(OSError):
            file = os.open(self._path(instance_id), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(file, b"1", RELEASED_AT)
                if ready:
                    os.pwrite(file, b"1", READY_AT)
            finally:
                os.close(file)

    def is_locked(self, instance_id: str) -> bool:
        """Whether anybody still holds the lock of the instance's latest run. Raises OSError (no
        descriptors)."""
        return _is_locked(self._locked_file(instance_id))

    def unreadable(self, instance_id: str) -> str:
        """The path of a record of the instance that was set aside, if anybody still holds its lock: something
        of a run is alive of which nothing else is known. Empty when there is none. Raises OSError."""
        aside = _aside(self._path(instance_id))
        return aside if _is_locked(aside) else ""

    def file_of(self, instance_id: str) -> tuple[int, int] | None:
        """Device and inode of the instance's record, by which its open descriptors are known."""
        try:
            info = os.stat(self._locked_file(instance_id))
        except FileNotFoundError:
            return None
        return info.st_dev, info.st_ino

    def remove(self, instance_id: str) -> None:
        """Makes the record void, if there is one. Where that cannot be done (a read-only disk) it is done
        later: the run is over all the same, and a daemon that finds its record finds nothing alive."""
        self._void(*self._not_void, self._path(instance_id))

    def _void(self, *paths: str) -> None:
        for path in paths:
            self._forget_removed(path)
            try:
                os.rename(path, _free(path))
            except FileNotFoundError:
                self._not_void.pop(path, None)
            except OSError as error:
                if not self._not_void:
                    _log.error(
                        "cannot void the runtime record '%s': %s; should the daemon die, the next one tells "
                        "of that run's end again",
                        path,
                        error.strerror,
                    )
                self._not_void[path] = None
            else:
                self._not_void.pop(path, None)

    def read(self) -> list[Record]:
        """Every record there is, also those that somebody removed while their runs went on. What is no record
        is set aside as `*.corrupt`, and logged. Raises OSError: a record that cannot be read now is not to be
        taken for one that is not there."""
        records: dict[str, Record] = {}
        for name in sorted(os.listdir(self._directory)):
            path = str(self._directory / name)
            if name.endswith(".free"):
                with contextlib.suppress(OSError):  # read-only
                    os.unlink(path)
            elif name.endswith(".json"):
                try:
                    record = Record.from_json(read_file(path))
                    if self._path(record.run.instance_id) != path:
                        raise ValueError(f"it is of instance '{record.run.instance_id}'")
                    records[path] = record
                except FileNotFoundError:
                    continue  # somebody else was faster
                except ValueError as error:
                    _set_aside(path, error)
        self._recover(records)
        return list(records.values())

    def _recover(self, records: dict[str, Record]) -> None:
        """Add those that were removed from the directory while their runs went on, and write them again. Of
        those that there are, know the file that the run has the lock of. Raises OSError."""
        found = []
        for path, file in find_removed(self._directory):
            try:
                data = read_file(f"/proc/self/fd/{file}")
                found.append((Record.from_json(data), path, file, data))
            except ValueError as error:
                os.close(file)
                if path.endswith(".json"):
                    _log.error("cannot read the runtime record '%s', which was removed: %s", path, error)
        found.sort(key=lambda one: one[0].started.mono, reverse=True)  # the newest one counts
        for record, path, file, data in found:
            known = records.get(path)
            if path != self._path(record.run.instance_id) or (known and known.token != record.token):
                os.close(file)
                continue
            records[path], self._removed[path] = record, file
            if known is None:
                _log.warning(
                    "the runtime record '%s' was removed while its run goes on; it is written again", path
                )
                _write_again(path, data)

    def _locked_file(self, instance_id: str) -> str:
        path = self._path(instance_id)
        removed = self._removed.get(path)
        return path if removed is None else f"/proc/self/fd/{removed}"

    def _forget_removed(self, path: str) -> None:
        removed = self._removed.pop(path, None)
        if removed is not None:
            os.close(removed)

    def _path(self, instance_id: str) -> str:
        return f"{self._directory}/{file_name(instance_id)}.json"


def were_kept_in(directory: Path) -> bool:
    """Whether there was a daemon that kept its records in this directory, which may have been removed."""
    if directory.exists():
        return True
    try:
        removed = [file for _, file in find_removed(directory)]
    except OSError:
        return True  # for all that is known
    for file in removed:
        os.close(file)
    return bool(removed)


def file_name(instance_id: str) -> str:
    """A file name of its own for each instance id, whatever characters are in it."""
    name = quote(os.fsencode(instance_id), safe="")
    if len(name) > _LONGEST_NAME:
        # No quoted name has a '%' before a '-'.
        name = f"{name[:100]}%-{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def _free(final: str) -> str:
    return final.removesuffix(".json") + ".free"


def _open_draft(free: str, final: str) -> Draft:
    file = os.open(free, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.lseek(file, RELEASED_AT, os.SEEK_SET)
        lock = os.open(free, os.O_RDONLY | os.O_CLOEXEC)
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


def _write_again(path: str, data: bytes) -> None:
    try:
        file = os.open(_free(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(file, "wb") as writable:
            writable.write(data)
        os.rename(_free(path), path)
    except OSError as error:  # the next daemon finds it as this one did
        _log.warning("cannot write the runtime record '%s' again: %s", path, error.strerror)


def _is_locked(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return is_locked(file)
    finally:
        os.close(file)


def _aside(final: str) -> str:
    return final.removesuffix(".json") + ".corrupt"


def _set_aside(path: str, why: Exception) -> None:
    aside = _aside(path)
    try:
        os.rename(path, aside)
    except OSError as error:
        _log.error("cannot read the runtime record '%s' (%s) nor set it aside: %s", path, why, error)
    else:
        _log.error("cannot read the runtime record '%s': %s; it is now '%s'", path, why, aside)
