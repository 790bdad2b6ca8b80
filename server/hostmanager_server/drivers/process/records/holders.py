"""Runtime records that were removed from their directory, found through the processes that hold them.

A process chooses what is behind each of its descriptors, and in a mount namespace of its own the path of
that too. Nothing is therefore opened before its kind, owner and mount are known, and no error of one
process concerns another or the daemon.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.membership import agent_uids, claims, descends, shares_namespaces
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import read_file, read_stat

LONGEST = 32 << 20  # bytes; Linux takes 6 MiB of arguments and environment, which JSON may triple
_REMOVED = " (deleted)"  # what /proc appends to the path that such a file had
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of this process, not of the one that is looked at
_REPORTED = 10  # processes that are named, before the others are only counted
_MOUNT = re.compile(rb"^mnt_id:\s+(\d+)", re.MULTILINE)
_LOCK = re.compile(rb"^lock:.* FLOCK .*:(\d+) ", re.MULTILINE)
_HOLDERS = 1_000  # of one file; each is looked at more closely
_DESCRIPTORS = 20_000
_log = logging.getLogger(__name__)


class NotOurRecordError(OSError):
    """A file that the daemon does not read as a record; the text says why."""


@dataclass(eq=False, slots=True)
class HeldFile:
    """A removed file that has its lock held. `path` is where it was, `file` a descriptor of it for the caller
    to close, `holders` the pids of (the first) processes in the daemon's namespaces that have it open."""

    path: str
    file: int
    holders: list[int] = field(default_factory=list)


class SkipReports:
    """Names the first things that were skipped, and counts the others."""

    def __init__(self) -> None:
        self._skipped = 0

    def add(self, what: str, why: object) -> None:
        self._skipped += 1
        if self._skipped <= _REPORTED:
            _log.warning("cannot read %s: %s; it is skipped", what, why)

    def close(self) -> None:
        if self._skipped > _REPORTED:
            _log.warning("cannot read %d more of that kind; they are skipped", self._skipped - _REPORTED)


def find_held(directory: Path, suffixes: Collection[str]) -> list[HeldFile]:
    """Find the files with these suffixes that were removed from `directory` and have their lock still held.

    Raises OSError for want of descriptors or memory, and for nothing that another process does.
    """
    parent = os.path.realpath(directory)
    endings = tuple(suffix + _REMOVED for suffix in suffixes)
    mount: int | None = None
    found: dict[tuple[int, int], HeldFile | None] = {}  # None: a file that is not locked
    reports = SkipReports()
    try:
        for pid, path in _links():
            if not path.endswith(endings) or os.path.dirname(path) != parent:
                continue
            mount = _mount_of(directory) if mount is None else mount
            try:
                _consider(pid, str(directory / os.path.basename(path).removesuffix(_REMOVED)), mount, found)
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has ended, or let go of the file
            except OSError as error:
                if error.errno in SCARCE:
                    raise
                reports.add(f"the removed record that pid {pid} seems to hold", error.strerror or error)
    except BaseException:
        for one in found.values():
            if one is not None:
                os.close(one.file)
        raise
    reports.close()
    return [one for one in found.values() if one is not None]


def belongs_to_its_run(record: Record, holders: Collection[int]) -> bool:
    """Return whether one of the holders of a record is of the run that the record tells of.

    The main process is the one that the record names, and holds the record itself or has the run's mark,
    marker or cgroup. Any other holder has these too, or is of the main process's session or descent.
    """
    main = record.identity.pid
    pidfd = pidfds.open_verified(record.identity)
    verified = pidfd is not None
    alive = pidfd is not None and not pidfds.has_ended(pidfd)
    if pidfd is not None:
        os.close(pidfd)
    if alive and main in holders:
        return True
    if any(_is_kin(pid, record) for pid in holders):
        return True
    if alive and not _is_kin(main, record):
        return False
    # While a session has members, its number is given to no new process.
    has_number = verified or read_stat(main) is None
    return any((alive and descends(pid, main)) or (has_number and _session(pid) == main) for pid in holders)


def holders_of(file: int) -> list[int]:
    """Return the pids of processes in the daemon's namespaces that have this file as their record."""
    path, info = os.readlink(f"/proc/self/fd/{file}"), os.fstat(file)
    found = []
    for pid, held in _links():
        if held == path and shares_namespaces(pid):
            with suppress(OSError), _entered(pid) as place:
                if os.path.samestat(os.fstat(place.descriptor), info):
                    found.append(pid)
    return sorted(found)


def lock_holders(inode: int) -> list[int]:
    """Return the pids of processes that hold the lock of the file with this inode number, if they are seen.

    For a message only: no file system is asked, and not more than so many descriptors are looked at.
    """
    found = []
    left = _DESCRIPTORS
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{name}/fd")[:left]:
                left -= 1
                held = _LOCK.search(read_file(f"/proc/{name}/fdinfo/{descriptor}"))
                if held and int(held[1]) == inode:
                    found.append(int(name))
                    break
    return sorted(found)


def must_be_ours(info: os.stat_result, links: int | None = None) -> None:
    """Raise NotOurRecordError unless the file is regular, the daemon user's, with `links` names."""
    if not stat.S_ISREG(info.st_mode):
        raise NotOurRecordError(errno.EINVAL, "it is not a regular file")
    if info.st_uid != os.geteuid():
        raise NotOurRecordError(
            errno.EPERM, f"it belongs to user id {info.st_uid}, and the daemon is {os.geteuid()}"
        )
    if links is not None and info.st_nlink != links:
        raise NotOurRecordError(errno.EMLINK, f"it has {info.st_nlink} names (hard links), not {links}")


def is_locked(file: int) -> bool:
    """Return whether another open file holds the lock of this one. If not, this descriptor does now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def read_bounded(file: int) -> bytes:
    """Read a file from its beginning. Raises NotOurRecordError for one that is longer than any record."""
    data = b""
    while part := os.pread(file, 1 << 16, len(data)):
        data += part
        if len(data) > LONGEST:
            raise NotOurRecordError(errno.EFBIG, f"it has more than {LONGEST} bytes")
    return data


@dataclass(frozen=True, slots=True)
class _Place:
    """A descriptor opened with O_PATH: it tells what a file is, and reads nothing of it."""

    descriptor: int

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _entered(pid: int) -> _Place:
    return _Place(os.open(_link(pid), os.O_PATH | os.O_CLOEXEC))


def _consider(pid: int, path: str, mount: int, found: dict[tuple[int, int], HeldFile | None]) -> None:
    """Take note of the file that a process holds. Raises OSError, also NotOurRecordError."""
    # First what asks no file system: one of a stranger's need not answer.
    if not shares_namespaces(pid):
        raise NotOurRecordError(errno.EXDEV, "the process is in other namespaces (mount, pid or user)")
    with _entered(pid) as place:
        if _mount_id(place.descriptor) != mount:
            raise NotOurRecordError(errno.EXDEV, "it is on another mount than the state directory")
        info = os.fstat(place.descriptor)
        must_be_ours(info, links=0)
        key = info.st_dev, info.st_ino
        if key not in found:
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            file = os.open(f"/proc/self/fd/{place.descriptor}", flags)
            try:
                found[key] = HeldFile(path, file) if is_locked(file) else None
            finally:
                if found.get(key) is None:
                    os.close(file)
    held = found[key]
    if held is not None and len(held.holders) < _HOLDERS:
        held.holders.append(pid)


def _is_kin(pid: int, record: Record) -> bool:
    uids = agent_uids(record.uid, record.process.user)
    if claims(pid, record.token.encode(), record.mark, uids):
        return True
    return record.group is not None and pid in record.group.pids()


def _session(pid: int) -> int:
    seen = read_stat(pid)
    return 0 if seen is None else seen.session


def _links() -> Iterator[tuple[int, str]]:
    """Iterate over the processes that have a descriptor where agents have their record, with its path."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # without one, gone, or of a user whose descriptors are not shown
                yield int(name), os.readlink(_link(int(name)))


def _link(pid: int) -> str:
    return f"/proc/{pid}/fd/{gate.lock_descriptor()}"


def _mount_of(directory: Path) -> int:
    """Return the mount of a directory, or of the nearest one above it that exists."""
    for place in (directory, *directory.resolve().parents):
        with suppress(FileNotFoundError):
            descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return _mount_id(descriptor)
            finally:
                os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))


def _mount_id(descriptor: int) -> int:
    found = _MOUNT.search(read_file(f"/proc/self/fdinfo/{descriptor}"))
    return int(found[1]) if found else -1
