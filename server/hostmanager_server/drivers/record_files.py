"""The files that an earlier daemon left in the directory of records, or that were removed from there since.

Whoever belongs to a run holds its record open, and what is held open can be read, and its lock be tried,
also when it is in no directory any more.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from . import gate
from .identity import read_file
from .record import Record

RECORD, ASIDE = ".json", ".corrupt"
_LONGEST_NAME = 180  # a file name may have 255 bytes, suffixes included
_REMOVED = " (deleted)"  # what /proc appends to the path that such a file had


@dataclass(frozen=True, slots=True, eq=False)
class RecordFile:
    """A file that is a record, was one, or should be. `path` is where it is, or was if it is not `there`.

    `locked`: something of its run is alive. `record`: what it says, or None, and `problem` why it does not.
    `file`: a descriptor of it, for the caller to close, where it is locked, and was removed or is no record.
    """

    path: str
    there: bool
    data: bytes
    locked: bool
    record: Record | None
    problem: str
    file: int | None

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)


def find_record_files(directory: Path) -> list[RecordFile]:
    """All that are in the directory, and those that were removed from it and are locked. Raises OSError: one
    that cannot be read now is not to be taken for one that is not there."""
    found = []
    for name in sorted(os.listdir(directory)):
        if name.endswith((RECORD, ASIDE)):
            path = str(directory / name)
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # somebody else was faster
            found.append(_look_into(path, file, there=True))
    found.extend(_look_into(path, file, there=False) for path, file in _removed(directory))
    return found


def any_removed(directory: Path) -> bool:
    """Whether files were removed from the directory, or with it, that are locked still. Raises OSError."""
    files = [file for _, file in _removed(directory)]
    for file in files:
        os.close(file)
    return bool(files)


def is_locked(file: int) -> bool:
    """Whether anybody holds the lock of an open file. If not, this descriptor does from now on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def holders(file: int) -> list[int]:
    """The pids of the agents, or what is left of them, that have this file as their record."""
    path, info = os.readlink(f"/proc/self/fd/{file}"), os.fstat(file)
    found = []
    for pid, held in _held():
        with suppress(FileNotFoundError, ProcessLookupError):
            if held == path and os.path.samestat(os.stat(_link(pid)), info):
                found.append(pid)
    return sorted(found)


def file_name(instance_id: str) -> str:
    """A file name of its own for each instance id, whatever characters are in it."""
    name = quote(os.fsencode(instance_id), safe="")
    if len(name) > _LONGEST_NAME:
        # No quoted name has a '%' before a '-'.
        name = f"{name[:100]}%-{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def _look_into(path: str, file: int, *, there: bool) -> RecordFile:
    data = read_file(f"/proc/self/fd/{file}")
    locked = is_locked(file)
    record, problem = None, ""
    try:
        said = Record.from_json(data)
        if file_name(said.run.instance_id) != os.path.splitext(os.path.basename(path))[0]:
            raise ValueError(f"it is of instance '{said.run.instance_id}'")
        record = said
    except ValueError as error:
        problem = str(error)
    if locked and (record is None or not there):
        return RecordFile(path, there, data, locked, record, problem, file)
    os.close(file)
    return RecordFile(path, there, data, locked, record, problem, None)


def _removed(directory: Path) -> Iterator[tuple[str, int]]:
    """The path that each file had which was removed from `directory` and has its lock still held, and a
    descriptor of it for the caller to close. Raises OSError (no descriptors)."""
    parent = os.path.realpath(directory)
    seen: set[tuple[int, int]] = set()
    for pid, path in _held():
        name = os.path.basename(path).removesuffix(_REMOVED)
        if not path.endswith((RECORD + _REMOVED, ASIDE + _REMOVED)) or os.path.dirname(path) != parent:
            continue
        try:
            file = os.open(_link(pid), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        info = os.fstat(file)
        # A path is easily forged in a mount namespace, an owner is not.
        ours = info.st_uid == os.geteuid() and not info.st_nlink
        if ours and (info.st_dev, info.st_ino) not in seen and is_locked(file):
            seen.add((info.st_dev, info.st_ino))
            yield str(directory / name), file
        else:
            os.close(file)


def _held() -> Iterator[tuple[int, str]]:
    """The pid of each process that has a descriptor where agents have that of their record, and its path."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            # It may have none, be gone, or be another user's and so not of a run of ours.
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                yield int(name), os.readlink(_link(int(name)))


def _link(pid: int) -> str:
    return f"/proc/{pid}/fd/{gate.lock_descriptor()}"
