"""Record files of an earlier daemon, including files removed since.

Each process of a run holds its record open. A reader can read an open file, and test its lock, even when
the file is in no directory.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import time
from pathlib import Path
from urllib.parse import quote

from hostmanager.values import dataclass, replace

from hostmanager_server.core.digests import sha256
from hostmanager_server.drivers.process.cgroup import Cgroup
from hostmanager_server.drivers.process.records.holders import (
    SCARCE,
    HeldFile,
    SkipReports,
    belongs_to_its_run,
    find_held,
    is_locked,
    must_be_ours,
    read_bounded,
)
from hostmanager_server.drivers.process.records.record import Record

RECORD, ASIDE = ".json", ".corrupt"
# With these flags, open(2) refuses a link, and does not wait for a pipe or a device.
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LONGEST_NAME = 180  # a file name has at most 255 bytes, suffixes included
_NOTE_READINGS = 1_000
_NOTE_PAUSE = 0.001  # s between two readings
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RecordFile:
    """A record file, valid or not, present or removed.

    `path` is the present path, or the former one of a file that is not `in_directory`. `locked`: a process
    of the run is alive. `record`: the content, or None with the reason in `problem`. `file`: a descriptor
    for the caller to close, for locked files that were removed or are no record; otherwise None.
    """

    path: str
    in_directory: bool
    data: bytes
    locked: bool
    record: Record | None
    problem: str
    file: int | None

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self.file is not None:
            os.close(self.file)


def find_record_files(directory: Path) -> list[RecordFile]:
    """Return the records in the directory, and removed ones that are locked.

    Skips and reports files that do not belong to the daemon's user. Raises OSError for a lack of
    descriptors or memory.
    """
    found = []
    reports = SkipReports()
    for name in sorted(os.listdir(directory)):
        if name.endswith((RECORD, ASIDE)):
            path = str(directory / name)
            try:
                descriptor = open_record(path, os.O_RDONLY, links=None)
            except FileNotFoundError:
                continue  # removed since the listing
            except OSError as error:
                if error.errno in SCARCE:
                    raise
                reports.add(f"the runtime record '{path}'", error.strerror)
                continue
            found.append(_inspect(path, descriptor, in_directory=True))
    reports.close()
    for held in find_held(directory, (RECORD, ASIDE)):
        file = _inspect(held.path, held.file, in_directory=False)
        if file.record is not None and not belongs_to_its_run(file.record, held.holders):
            _refuse(held)
            file.close()
        else:
            found.append(file)
    return found


def any_removed(directory: Path) -> bool:
    """Return whether a locked file was removed from the directory, or with it.

    Raises OSError.
    """
    held = find_held(directory, (RECORD, ASIDE))
    for file in held:
        os.close(file.file)
    return bool(held)


def secure_directory(directory: Path) -> None:
    """Create the directory of records for the daemon's user; log a link or another owner.

    Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = os.lstat(directory)
    if stat.S_ISLNK(info.st_mode):
        _log.error(
            "cannot trust the directory of runtime records '%s': the path is a symbolic link; the daemon "
            "skips records of other owners; replace the link by a directory",
            directory,
        )
    elif info.st_uid != os.geteuid():
        _log.error(
            "cannot trust the directory of runtime records '%s': it belongs to user id %d, and the daemon is "
            "%d; the daemon skips records of other owners; change the owner of the directory",
            directory,
            info.st_uid,
            os.geteuid(),
        )
    elif stat.S_IMODE(info.st_mode) & 0o077:
        try:
            os.chmod(directory, 0o700)
            done = "the daemon closed it to them"
        except OSError as error:  # on a read-only disk, other users cannot write either
            done = f"cannot close it to them: {error.strerror}"
        _log.warning(
            "the directory of runtime records '%s' was open to other users (mode %o); %s",
            directory,
            stat.S_IMODE(info.st_mode),
            done,
        )


def open_record(path: str, flags: int, links: int | None = 1) -> int:
    """Open a file of the directory of records and return the descriptor.

    Raises OSError; NotOurRecordError unless the file is regular, belongs to the daemon's user and has
    `links` names (None: any number).
    """
    file = os.open(path, flags | OPEN_FLAGS, 0o600)
    try:
        must_be_ours(os.fstat(file), links)
    except OSError:
        os.close(file)
        raise
    return file


@functools.lru_cache(maxsize=1 << 14)  # called some times at every start and end
def file_name(instance_id: str) -> str:
    """Return a unique file name for an instance id, percent-encoded."""
    name = quote(os.fsencode(instance_id), safe="")
    if len(name) > _LONGEST_NAME:
        # No percent-encoded name has a '%' before a '-'.
        name = f"{name[:100]}%-{sha256(name.encode()).hexdigest()}"
    return name


def _inspect(path: str, file: int, *, in_directory: bool) -> RecordFile:
    locked = is_locked(file)
    data, record, problem = b"", None, ""
    try:
        # The file counts even with invalid content: its lock prevents a second agent.
        must_be_ours(os.fstat(file), links=1 if in_directory else 0)
        data = read_bounded(file)
        parsed = Record.from_json(data)
        if not parsed.identity.pid:
            data, locked = _read_noted(file, data)
            parsed = Record.from_json(data)
        if file_name(parsed.run.instance_id) != os.path.splitext(os.path.basename(path))[0]:
            raise ValueError(f"the record names instance '{parsed.run.instance_id}'")
        record = _with_own_group(parsed, path)
    except ValueError as error:
        problem = str(error)
    except OSError as error:
        if error.errno in SCARCE:
            os.close(file)
            raise
        problem = error.strerror or str(error)
    if locked and (record is None or not in_directory):
        return RecordFile(path, in_directory, data, locked, record, problem, file)
    os.close(file)
    return RecordFile(path, in_directory, data, locked, record, problem, None)


def _read_noted(file: int, data: bytes) -> tuple[bytes, bool]:
    """Return a record as soon as it names a pid or its lock is free, and whether it is locked.

    If the daemon died in the middle of a start, the child holds the lock, and notes its pid within
    microseconds.
    """
    for _ in range(_NOTE_READINGS):
        if not is_locked(file):
            return read_bounded(file), False
        data = read_bounded(file)
        if Record.from_json(data).identity.pid:
            break
        time.sleep(_NOTE_PAUSE)
    return data, True


def _with_own_group(record: Record, path: str) -> Record:
    """Return the record without a cgroup that no daemon created for this run.

    Otherwise the end of the run would kill processes of another cgroup.
    """
    if record.group is None or _is_made_for(record.group, record):
        return record
    _log.warning(
        "cannot use the cgroup '%s' of the runtime record '%s': no daemon created it for that run; "
        "the daemon tracks the agent without a cgroup",
        record.group.path,
        path,
    )
    return replace(record, group=None)


def _is_made_for(group: Cgroup, record: Record) -> bool:
    # See Cgroups: the parent directory is the daemon's own, and the name contains the run's marker.
    parent, name = os.path.split(group.path)
    return (
        os.path.normpath(group.path) == group.path
        and os.path.isabs(group.path)
        and os.path.basename(parent).startswith("agents")
        and name == f"{file_name(record.run.instance_id)}.{record.token}"
    )


def _refuse(held: HeldFile) -> None:
    _log.error(
        "cannot use the removed runtime record '%s': its holders, pid %s, do not belong to the run in the "
        "record; the daemon skips it",
        held.path,
        ", ".join(map(str, held.holders)),
    )
