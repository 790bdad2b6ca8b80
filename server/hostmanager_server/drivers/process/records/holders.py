"""Holders of runtime records: processes with the descriptor of a removed record.

A process chooses the files behind its descriptors and, in a private mount namespace, their paths.
Therefore the daemon opens no file before it has checked kind, owner and mount, and an error of one process
affects neither other processes nor the daemon.
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
from pathlib import Path

from hostmanager.values import dataclass, field

from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.membership import (
    agent_uids,
    descends,
    has_mark_or_marker,
    shares_namespaces,
)
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import read_file, read_stat

LONGEST = 32 << 20  # bytes; Linux accepts 6 MiB of arguments and environment, which JSON may triple
_REMOVED = " (deleted)"  # the suffix that /proc appends to the path of a removed file
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors of this process, not of the inspected one
_REPORTED = 10  # named files; the others are only counted
_MOUNT = re.compile(rb"^mnt_id:\s+(\d+)", re.MULTILINE)
_LOCK = re.compile(rb"^lock:.* FLOCK .*:(\d+) ", re.MULTILINE)
_HOLDERS = 1_000  # holders of one file that the daemon inspects
_DESCRIPTORS = 20_000
_log = logging.getLogger(__name__)


class NotOurRecordError(OSError):
    """A file that the daemon does not read as a record; the text gives the reason."""


@dataclass(eq=False, slots=True)
class HeldFile:
    """A removed file with a held lock.

    `path` is the former path, `file` a descriptor for the caller to close, `holders` the pids of (the
    first) processes in the daemon's namespaces that have the file open.
    """

    path: str
    file: int
    holders: list[int] = field(default_factory=list)


class SkipReports:
    """Warnings for skipped files: ten name a file, one more counts the others."""

    def __init__(self) -> None:
        self._skipped = 0

    def add(self, subject: str, why: object) -> None:
        """Log or count a skipped file."""
        self._skipped += 1
        if self._skipped <= _REPORTED:
            _log.warning("cannot read %s: %s; the daemon skips it", subject, why)

    def close(self) -> None:
        """Log the number of skipped files beyond the first ten."""
        if self._skipped > _REPORTED:
            _log.warning("cannot read %d more of that kind; the daemon skips them", self._skipped - _REPORTED)


def find_held(directory: Path, suffixes: Collection[str]) -> list[HeldFile]:
    """Return the locked files with these suffixes that were removed from `directory`.

    Raises OSError for a lack of descriptors or memory; never for an action of another process.
    """
    parent = os.path.realpath(directory)
    endings = tuple(suffix + _REMOVED for suffix in suffixes)
    mount: int | None = None
    found: dict[tuple[int, int], HeldFile | None] = {}  # None: an unlocked file
    reports = SkipReports()
    try:
        for pid, path in _links():
            if not path.endswith(endings) or os.path.dirname(path) != parent:
                continue
            mount = _mount_of(directory) if mount is None else mount
            try:
                _inspect_holder(
                    pid, str(directory / os.path.basename(path).removesuffix(_REMOVED)), mount, found
                )
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has ended, or has closed the file
            except OSError as error:
                if error.errno in SCARCE:
                    raise
                reports.add(f"the removed record that pid {pid} seems to hold", error.strerror or error)
    except BaseException:
        for held in found.values():
            if held is not None:
                os.close(held.file)
        raise
    reports.close()
    return [held for held in found.values() if held is not None]


def belongs_to_its_run(record: Record, holders: Collection[int]) -> bool:
    """Return whether at least one holder of a record belongs to the recorded run.

    The main process counts if it is the recorded one, and holds the record itself or has the run's mark,
    marker or cgroup. Any other holder counts with one of these, or with the session or descent of the main
    process.
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
    # While a session has members, the kernel assigns its number to no new process.
    has_number = main > 0 and (verified or read_stat(main) is None)
    return any((alive and descends(pid, main)) or (has_number and _session(pid) == main) for pid in holders)


def holders_of(file: int) -> list[int]:
    """Return the pids of processes in the daemon's namespaces that hold a record.

    `file` is a descriptor of the record.
    """
    path, info = os.readlink(f"/proc/self/fd/{file}"), os.fstat(file)
    found = []
    for pid, held in _links():
        if held == path and shares_namespaces(pid):
            with suppress(OSError), _entered(pid) as place:
                if os.path.samestat(os.fstat(place.descriptor), info):
                    found.append(pid)
    return sorted(found)


def lock_holders(inode: int) -> list[int]:
    """Return the pids of processes that hold the lock of the file with this inode.

    For messages only: the function asks no file system, reads at most 20,000 descriptors, and misses
    processes that this user cannot inspect.
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
    """Raise NotOurRecordError unless a file is the daemon user's and regular.

    `links` is the required number of names (None: any number).
    """
    if not stat.S_ISREG(info.st_mode):
        raise NotOurRecordError(errno.EINVAL, "the file is not regular")
    if info.st_uid != os.geteuid():
        raise NotOurRecordError(
            errno.EPERM, f"the file belongs to user id {info.st_uid}, and the daemon is {os.geteuid()}"
        )
    if links is not None and info.st_nlink != links:
        raise NotOurRecordError(errno.EMLINK, f"the file has {info.st_nlink} names (hard links), not {links}")


def is_locked(file: int) -> bool:
    """Return whether another open file holds the lock; otherwise take the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def read_bounded(file: int) -> bytes:
    """Return the content of a file.

    Raises NotOurRecordError for a file that is longer than any record (32 MiB).
    """
    data = b""
    while part := os.pread(file, 1 << 16, len(data)):
        data += part
        if len(data) > LONGEST:
            raise NotOurRecordError(errno.EFBIG, f"the file has more than {LONGEST} bytes")
    return data


@dataclass(frozen=True, slots=True)
class _Place:
    """A descriptor opened with O_PATH, which shows a file's kind and reads nothing."""

    descriptor: int

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def _entered(pid: int) -> _Place:
    return _Place(os.open(_link(pid), os.O_PATH | os.O_CLOEXEC))


def _inspect_holder(pid: int, path: str, mount: int, found: dict[tuple[int, int], HeldFile | None]) -> None:
    """Add the file that a process holds to `found`.

    Raises OSError, also NotOurRecordError.
    """
    # Namespaces first, because they involve no file system: a foreign file system may never answer.
    if not shares_namespaces(pid):
        raise NotOurRecordError(errno.EXDEV, "the process is in other namespaces (mount, pid or user)")
    with _entered(pid) as place:
        if _mount_id(place.descriptor) != mount:
            raise NotOurRecordError(errno.EXDEV, "the file is on another mount than the state directory")
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
    if has_mark_or_marker(pid, record.token.encode(), record.mark, uids):
        return True
    return record.group is not None and pid in record.group.pids()


def _session(pid: int) -> int:
    stat = read_stat(pid)
    return 0 if stat is None else stat.session


def _links() -> Iterator[tuple[int, str]]:
    """Yield each process with the descriptor number of records, and the path there."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):  # no such descriptor, process gone, or descriptors hidden from this user
                yield int(name), os.readlink(_link(int(name)))


def _link(pid: int) -> str:
    return f"/proc/{pid}/fd/{gate.lock_descriptor()}"


def _mount_of(directory: Path) -> int:
    """Return the mount id of a directory, or of its nearest existing parent."""
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
