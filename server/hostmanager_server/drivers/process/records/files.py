"""The files that an earlier daemon left in the directory of records, or that were removed from there since.

Each process of a run holds its record open. An open file can be read, and its lock be tried, also when the
file is in no directory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

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
# Nothing but a regular file is opened so: a link is refused, and a pipe or a device is not waited for.
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LONGEST_NAME = 180  # a file name may have 255 bytes, suffixes included
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RecordFile:
    """A file that is a record, was one, or should be. `path` is where it is, or was if it is not `there`.

    `locked`: something of its run is alive. `record`: what it says, or None, and `problem` why it does not.
    `file`: a descriptor of it, for the caller to close, where it is locked, and was removed or is no record.
    """

    path: str
    in_directory: bool
    data: bytes
    locked: bool
    record: Record | None
    problem: str
    file: int | None

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)


def find_record_files(directory: Path) -> list[RecordFile]:
    """Find the records in the directory, and those that were removed from it and are locked.

    A file that is not the daemon's own is skipped and reported. Raises OSError for want of descriptors or
    memory.
    """
    found = []
    reports = SkipReports()
    for name in sorted(os.listdir(directory)):
        if name.endswith((RECORD, ASIDE)):
            path = str(directory / name)
            try:
                file = open_record(path, os.O_RDONLY, links=None)
            except FileNotFoundError:
                continue  # removed since the listing
            except OSError as error:
                if error.errno in SCARCE:
                    raise
                reports.add(f"the runtime record '{path}'", error.strerror)
                continue
            found.append(_inspect(path, file, in_directory=True))
    reports.close()
    for held in find_held(directory, (RECORD, ASIDE)):
        one = _inspect(held.path, held.file, in_directory=False)
        if one.record is not None and not belongs_to_its_run(one.record, held.holders):
            _refuse(held)
            one.close()
        else:
            found.append(one)
    return found


def any_removed(directory: Path) -> bool:
    """Whether files were removed from the directory, or with it, that are locked still. Raises OSError."""
    held = find_held(directory, (RECORD, ASIDE))
    for one in held:
        os.close(one.file)
    return bool(held)


def secure_directory(directory: Path) -> None:
    """Make the directory of records, for the daemon's user only; report one that is another's.

    Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = os.stat(directory)
    if info.st_uid != os.geteuid():
        _log.error(
            "cannot trust the directory of runtime records '%s': it belongs to user id %d, and the daemon is "
            "%d; records in it that are not the daemon's own are skipped; change its owner",
            directory,
            info.st_uid,
            os.geteuid(),
        )
    elif stat.S_IMODE(info.st_mode) & 0o077:
        try:
            os.chmod(directory, 0o700)
            done = "it is closed to them"
        except OSError as error:  # a read-only disk keeps others from writing there, too
            done = f"it cannot be closed to them: {error.strerror}"
        _log.warning(
            "the directory of runtime records '%s' was open to other users (mode %o); %s",
            directory,
            stat.S_IMODE(info.st_mode),
            done,
        )


def open_record(path: str, flags: int, links: int | None = 1) -> int:
    """Open a file of the directory of records. Raises OSError, NotOursError unless it is a regular file of
    the daemon's user with so many names (None: any number of them)."""
    file = os.open(path, flags | OPEN_FLAGS, 0o600)
    try:
        must_be_ours(os.fstat(file), links)
    except OSError:
        os.close(file)
        raise
    return file


def file_name(instance_id: str) -> str:
    """A file name of its own for each instance id, whatever characters are in it."""
    name = quote(os.fsencode(instance_id), safe="")
    if len(name) > _LONGEST_NAME:
        # No quoted name has a '%' before a '-'.
        name = f"{name[:100]}%-{hashlib.sha256(name.encode()).hexdigest()}"
    return name


def _inspect(path: str, file: int, *, in_directory: bool) -> RecordFile:
    locked = is_locked(file)
    data, record, problem = b"", None, ""
    try:
        # Not skipped: its lock keeps a second agent from being started, also where it is not believed.
        must_be_ours(os.fstat(file), links=1 if in_directory else 0)
        data = read_bounded(file)
        parsed = Record.from_json(data)
        if file_name(parsed.run.instance_id) != os.path.splitext(os.path.basename(path))[0]:
            raise ValueError(f"it is of instance '{parsed.run.instance_id}'")
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


def _with_own_group(record: Record, path: str) -> Record:
    """Drop a cgroup that no daemon made for this run: its processes would be ended with the run."""
    if record.group is None or _is_made_for(record.group, record):
        return record
    _log.warning(
        "cannot use the cgroup '%s' of the runtime record '%s': no daemon made it for that run; "
        "its agent is tracked without",
        record.group.path,
        path,
    )
    return replace(record, group=None)


def _is_made_for(group: Cgroup, record: Record) -> bool:
    # See Cgroups: the parent is the daemon's own, and the run's marker is part of the name.
    parent, name = os.path.split(group.path)
    return (
        os.path.normpath(group.path) == group.path
        and os.path.isabs(group.path)
        and os.path.basename(parent).startswith("agents")
        and name == f"{file_name(record.run.instance_id)}.{record.token}"
    )


def _refuse(held: HeldFile) -> None:
    _log.error(
        "cannot believe the removed runtime record '%s': pid %s, which hold it, are not of the run that it "
        "names; it is skipped",
        held.path,
        ", ".join(map(str, held.holders)),
    )
