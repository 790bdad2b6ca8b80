"""Cgroups (version 2) of runs: one per run, in the daemon's own directory.

Children inherit membership, and a process cannot leave without the right to write to another cgroup, so
membership finds processes that hide in every other way. The daemon enables a controller in these cgroups
only for an instance with a limit of memory: otherwise they only show which processes belong together.
Therefore the daemon may stay in the cgroup of its service manager: the rule that a cgroup has either
processes or children concerns cgroups that enable controllers for their children. A daemon that enabled some
would prevent the service manager from starting the next daemon in the same place; there the kernel refuses,
as the daemon itself is in the cgroup.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Set

from hostmanager.values import dataclass

from hostmanager_server.drivers.exec import gate
from hostmanager_server.linux.pidfds import read_file

_READ = 1 << 16
_REMEDY = "start the daemon with --cgroup PATH: a cgroup 2 with the controller memory, and without processes"
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # temporary errors; all others are permanent
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup of one run.

    `inode` distinguishes the cgroup from any other that had the same path in this boot. A cgroup that is
    gone, or unreadable, counts as empty: the kernel removes only empty ones. Where an unreadable cgroup has
    processes, the other evidence of the run finds them.
    """

    path: str
    inode: int

    def exists(self) -> bool:
        """Return whether the cgroup is still there and readable."""
        try:
            return os.stat(self.path).st_ino == self.inode
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Return the pids of processes in the cgroup and below, without zombies.

        Processes of another pid namespace, which this process cannot see, are missing. Raises OSError (no
        descriptors).
        """
        found: list[int] = []
        with self._entered() as directory:
            if directory is not None:
                _collect(directory, found)
        return found

    def populated(self) -> bool:
        """Return whether the cgroup, or one below, has any process, visible or not.

        Raises OSError.
        """
        with self._entered() as directory:
            return directory is not None and b"populated 1" in _read(directory, "cgroup.events")

    def kill(self) -> None:
        """Send SIGKILL to all processes in the cgroup and below at once, of any user.

        Does nothing before Linux 5.14, which introduced cgroup.kill.
        """
        with contextlib.suppress(OSError), self._entered() as directory:
            if directory is not None:
                file = os.open("cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
                try:
                    os.write(file, b"1")
                finally:
                    os.close(file)

    def out_of_memory(self) -> bool:
        """Return whether the kernel killed a process here for lack of memory. Raises OSError."""
        with self._entered() as directory:
            if directory is None:
                return False
            counts = dict(line.split() for line in _read(directory, "memory.events").splitlines())
            return int(counts.get(b"oom_kill", 0)) > 0

    def limit_memory(self, limit: int) -> None:
        """Set the hard limit in bytes, beyond which the kernel kills the whole group. Raises OSError."""
        with self._entered() as directory:
            if directory is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
            _write(directory, "memory.max", b"%d" % limit)
            with contextlib.suppress(OSError):  # before Linux 4.19: the kernel kills a single process
                _write(directory, "memory.oom.group", b"1")

    def remove(self) -> bool:
        """Remove the cgroup and those below; return False while one has a process.

        Raises OSError.
        """
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
        """Open the directory of the cgroup for the block; None when the cgroup is gone."""
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
    """The directory in which this daemon creates the cgroups of its runs.

    The first run creates the directory. With None, new runs get no cgroup; the cgroups of recovered runs
    are still used and removed.
    """

    def __init__(self, directory: str | None) -> None:
        self.directory = directory
        self._failing = False
        self._loss_logged = False
        self._to_remove: list[Cgroup] = []  # cgroups that must be removed once they are empty

    def make(self, name: str) -> Cgroup | None:
        """Create a cgroup and return it; return None when the creation fails.

        The run is then tracked without a cgroup. The first failure in a row is logged, and so is the next
        success.
        """
        self._remove_pending()
        if self.directory is None:
            return None
        path = f"{self.directory}/{name}"
        try:
            try:
                os.mkdir(path, 0o755)
            except FileNotFoundError:  # the first cgroup of this daemon, or the directory was removed
                os.makedirs(self.directory, 0o755, exist_ok=True)
                os.mkdir(path, 0o755)
            group = Cgroup(path, os.stat(path).st_ino)
        except OSError as error:
            if not self._failing:
                _log.warning(
                    "cannot create the cgroup '%s': %s; the daemon tracks agents without cgroups, "
                    "by environment, session, descent and lock",
                    path,
                    error.strerror,
                )
            self._failing = True
            return None
        if self._failing:
            _log.info("the daemon can create cgroups in '%s' again", self.directory)
        self._failing = False
        return group

    def limit_memory(self, group: Cgroup | None, limit: int) -> str:
        """Limit the memory of a new cgroup; return why this is impossible, empty on success."""
        if group is None or self.directory is None:
            return f"the agent has no cgroup of its own; {_REMEDY}"
        try:
            group.limit_memory(limit)
        except OSError:
            try:
                self._enable_memory()
                group.limit_memory(limit)
            except OSError as error:
                return f"cannot limit the memory of '{group.path}': {error.strerror}; {_REMEDY}"
        return ""

    def _enable_memory(self) -> None:
        """Let the cgroups of runs have limits of memory. Raises OSError.

        The kernel refuses where the parent has processes, such as this daemon.
        """
        assert self.directory is not None
        for path in (os.path.dirname(self.directory), self.directory):
            file = os.open(f"{path}/cgroup.subtree_control", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, b"+memory")
            finally:
                os.close(file)

    def drop(self, group: Cgroup | None) -> None:
        """Remove the cgroup of a run that is gone, now or with the next `make`."""
        if group is None:
            return
        if not group.exists() and not self._loss_logged:
            self._loss_logged = True
            _log.warning(
                "another program removed the cgroup '%s' of a running agent, or made it unreadable; "
                "the daemon tracked the agent by environment, session, descent and lock alone",
                group.path,
            )
        if not _try_remove(group):
            self._to_remove.append(group)

    def sweep(self, recorded: Set[Cgroup | None], in_use: Set[Cgroup | None]) -> None:
        """Remove the cgroups of an earlier daemon, except those `in_use`.

        A cgroup with processes and without a record (`recorded`) belongs to a run that the daemon does not
        know: the daemon logs a warning and leaves the processes alone.
        """
        try:
            self._sweep(recorded, in_use)
        except OSError as error:
            _log.warning(
                "cannot remove the cgroups of an earlier daemon in '%s': %s",
                self.directory,
                error.strerror,
            )

    def _sweep(self, recorded: Set[Cgroup | None], in_use: Set[Cgroup | None]) -> None:
        for group in {*recorded, *self._present()} - in_use:
            if group is None or _try_remove(group):
                continue
            self._to_remove.append(group)
            strangers = [pid for pid in group.pids() if not _is_leaving(pid)]
            if strangers:
                _log.warning(
                    "the cgroup '%s' has processes of a run without a record: pid %s; "
                    "the daemon leaves them alone, end them by hand",
                    group.path,
                    ", ".join(map(str, strangers)),
                )

    def close(self) -> None:
        """Remove the directory, unless runs still have cgroups there."""
        self._remove_pending()
        if self.directory is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.directory)

    def _remove_pending(self) -> None:
        if self._to_remove:
            self._to_remove = [group for group in self._to_remove if not _try_remove(group)]

    def _present(self) -> list[Cgroup]:
        if self.directory is None:
            return []
        try:
            with os.scandir(self.directory) as entries:
                return [Cgroup(e.path, e.inode()) for e in entries if e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []


def _try_remove(group: Cgroup) -> bool:
    try:
        return group.remove()
    except OSError as error:
        _log.warning("cannot remove the cgroup '%s': %s; remove it by hand", group.path, error.strerror)
        return True


def _is_leaving(pid: int) -> bool:
    """Return whether a process has ended, or is leaving the gate of a dead daemon."""
    try:
        cmdline = read_file(f"/proc/{pid}/cmdline")
    except OSError:
        return True
    return not cmdline or gate.still_in_gate(cmdline)


def _collect(directory: int, found: list[int]) -> None:
    # In a threaded cgroup this file is unreadable: the processes appear in the domain above.
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
    # A cgroup has one more link for each cgroup below.
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


def _write(directory: int, name: str, data: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def _read(directory: int, name: str) -> bytes:
    """Return the whole content of a cgroup file; empty when the file is unreadable.

    A file is unreadable after the removal of the cgroup. Raises OSError (no descriptors or memory).
    """
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            data = b""
            while part := os.read(file, _READ):  # the kernel returns these files page by page
                data += part
            return data
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _SCARCE:
            raise
        return b""
