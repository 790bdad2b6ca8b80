"""Control groups of runs: a cgroup (version 2) of its own for each run, in a folder of the daemon's.

Membership is inherited and cannot be shed without the right to write to another cgroup, so it tells of a
process that hides in every other way. No controller is enabled in any of them: they only tell who belongs
together. That is also why the daemon may stay where its service manager put it: the rule that a cgroup has
either processes or children concerns cgroups that enable controllers for their children, and whoever enables
some keeps the service manager from starting the next daemon in the same place.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Set
from dataclasses import dataclass

from hostmanager_server.drivers.exec import gate
from hostmanager_server.linux.pidfds import read_file

_READ = 1 << 16
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # for now; whatever else fails, fails for good
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup of one run. `inode` tells it apart from any other that ever had its path in this boot.

    One that is gone, or may not be read any more, is taken for empty: the kernel removes no other. Where that
    is wrong, the run is known by the rest.
    """

    path: str
    inode: int

    def exists(self) -> bool:
        """Whether it is still there, and may be read."""
        try:
            return os.stat(self.path).st_ino == self.inode
        except OSError:
            return False

    def pids(self) -> list[int]:
        """The processes in it and below it, zombies excepted; those that this process cannot see (of another
        pid namespace) are left out. Raises OSError (no descriptors)."""
        found: list[int] = []
        with self._entered() as directory:
            if directory is not None:
                _collect(directory, found)
        return found

    def populated(self) -> bool:
        """Whether any process is in it or below it, be it visible or not. Raises OSError."""
        with self._entered() as directory:
            return directory is not None and b"populated 1" in _read(directory, "cgroup.events")

    def kill(self) -> None:
        """SIGKILL to all that are in it or below it, at once, whoever's they are; nothing where the kernel
        cannot (before Linux 5.14)."""
        with contextlib.suppress(OSError), self._entered() as directory:
            if directory is not None:
                file = os.open("cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
                try:
                    os.write(file, b"1")
                finally:
                    os.close(file)

    def remove(self) -> bool:
        """Removes it with what is below it; False when something is in it. Raises OSError."""
        try:
            with self._entered() as directory:
                if directory is not None:
                    _remove_below(directory)
                    os.rmdir(self.path)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
        return True

    @contextlib.contextmanager
    def _entered(self) -> Iterator[int | None]:
        """A descriptor of its directory; None when it is gone."""
        try:
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _SCARCE:
                raise
            yield None
            return
        try:
            yield directory if os.fstat(directory).st_ino == self.inode else None
        finally:
            os.close(directory)


class Cgroups:
    """Where the groups of runs are made: a directory of this daemon's alone, made when it is first needed.
    None: new runs get no group; those of runs that an earlier daemon gave one are seen to all the same."""

    def __init__(self, directory: str | None) -> None:
        self.directory = directory
        self._failing = False
        self._meddled = False
        self._left: list[Cgroup] = []  # to be removed once what is in them has left

    def make(self, name: str) -> Cgroup | None:
        """A new group. None when it cannot be made, which is logged once until it can again: the run is then
        tracked without."""
        self._remove_left()
        if self.directory is None:
            return None
        path = f"{self.directory}/{name}"
        try:
            try:
                os.mkdir(path, 0o755)
            except FileNotFoundError:  # the first one, or somebody cleaned up
                os.makedirs(self.directory, 0o755, exist_ok=True)
                os.mkdir(path, 0o755)
            group = Cgroup(path, os.stat(path).st_ino)
        except OSError as error:
            if not self._failing:
                _log.warning(
                    "cannot make the cgroup '%s': %s; agents are tracked without, "
                    "by their environment, session, descent and lock",
                    path,
                    error.strerror,
                )
            self._failing = True
            return None
        if self._failing:
            _log.info("cgroups can be made again in '%s'", self.directory)
        self._failing = False
        return group

    def drop(self, group: Cgroup | None) -> None:
        """Remove the group of a run that is gone, if it has one, now or when the next one is made."""
        if group is None:
            return
        if not group.exists() and not self._meddled:
            self._meddled = True
            _log.warning(
                "the cgroup '%s' was removed by somebody else, or cannot be read, while its agent ran: "
                "that was tracked by its environment, session, descent and lock alone",
                group.path,
            )
        if not _removed(group):
            self._left.append(group)

    def sweep(self, recorded: Set[Cgroup | None], in_use: Set[Cgroup | None]) -> None:
        """Remove what an earlier daemon left: all but those `in_use`.

        A group that nobody `recorded`, with processes in it, is of a run without a record: it is left alone,
        and logged.
        """
        try:
            self._sweep(recorded, in_use)
        except OSError as error:
            _log.warning(
                "cannot remove the cgroups that an earlier daemon left in '%s': %s",
                self.directory,
                error.strerror,
            )

    def _sweep(self, recorded: Set[Cgroup | None], in_use: Set[Cgroup | None]) -> None:
        for group in {*recorded, *self._present()} - in_use:
            if group is None or _removed(group):
                continue
            self._left.append(group)
            strangers = [pid for pid in group.pids() if not _is_leaving(pid)]
            if strangers:
                _log.warning(
                    "the cgroup '%s' has processes of a run of which there is no record: %s; "
                    "they are left alone, end them by hand",
                    group.path,
                    ", ".join(map(str, strangers)),
                )

    def close(self) -> None:
        """Remove the directory, unless runs are left in it."""
        self._remove_left()
        if self.directory is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.directory)

    def _remove_left(self) -> None:
        if self._left:
            self._left = [group for group in self._left if not _removed(group)]

    def _present(self) -> list[Cgroup]:
        if self.directory is None:
            return []
        try:
            with os.scandir(self.directory) as entries:
                return [Cgroup(e.path, e.inode()) for e in entries if e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []


def _removed(group: Cgroup) -> bool:
    try:
        return group.remove()
    except OSError as error:
        _log.warning("cannot remove the cgroup '%s': %s; remove it by hand", group.path, error.strerror)
        return True


def _is_leaving(pid: int) -> bool:
    """Whether a process has ended, or waits in the gate of a daemon that is dead, and so is about to."""
    try:
        cmdline = read_file(f"/proc/{pid}/cmdline")
    except OSError:
        return True
    return not cmdline or gate.still_in_gate(cmdline)


def _collect(directory: int, found: list[int]) -> None:
    # In a threaded one this cannot be read: its processes are listed above it.
    found += [pid for pid in map(int, _read(directory, "cgroup.procs").split()) if pid]
    for name in _subdirectories(directory):
        with _opened(name, directory) as below:
            if below is not None:
                _collect(below, found)


def _remove_below(directory: int) -> None:
    for name in _subdirectories(directory):
        with _opened(name, directory) as below:
            if below is not None:
                _remove_below(below)
        os.rmdir(name, dir_fd=directory)


def _subdirectories(directory: int) -> list[str]:
    # A cgroup has a link more for each one below it.
    if os.fstat(directory).st_nlink <= 2:
        return []
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


@contextlib.contextmanager
def _opened(name: str, directory: int) -> Iterator[int | None]:
    try:
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        yield None
        return
    try:
        yield below
    finally:
        os.close(below)


def _read(directory: int, name: str) -> bytes:
    """The whole of a file of a cgroup; empty when it cannot be read, as when that was removed meanwhile."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            data = b""
            while part := os.read(file, _READ):  # of these files the kernel gives a page at a time
                data += part
            return data
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _SCARCE:
            raise
        return b""
