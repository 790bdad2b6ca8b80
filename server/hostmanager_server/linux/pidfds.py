"""Which process is which: identities that survive pid reuse, held through pidfds."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
from dataclasses import dataclass
from functools import cache

from hostmanager_server.core.events import ExitStatus

# linux/pidfd.h, first version of the structure: mask, cgroup id, eleven ids, exit code.
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
# _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_PF_KTHREAD = 0x00200000
_READ = 1 << 16  # more than the environment of any sane process; longer ones are read on
_MOST = 8 << 20  # the kernel takes 6 MiB at an exec; a process can make its environment look any size


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, told apart from any other that ever had its pid.

    `start` is in clock ticks since boot. It is too coarse to tell a quick reuse of a pid apart (in forced
    reuses it collided 27 times in 30), so `inode`, the unique number of the process's pidfd, stands beside
    it; it is 0 where the kernel has none (before 6.9). Both are void in another boot.
    """

    boot_id: str
    pid: int
    start: int
    inode: int


@dataclass(frozen=True, slots=True)
class Stat:
    """What `/proc/<pid>/stat` says; `start` in clock ticks since boot, `wait_status` as wait(2) gives it."""

    state: str
    parent: int
    session: int
    kernel_thread: bool
    threads: int
    start: int
    wait_status: int

    @property
    def alive(self) -> bool:
        """False for a zombie. One whose other threads run is alive: only its first thread has ended."""
        return self.threads > 1 if self.state == "Z" else self.state not in "Xx"


@cache
def boot_id() -> str:
    """The kernel's random name of this boot."""
    return read_file("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def read_file(path: str) -> bytes:
    """Read a small file, and no more than 8 MiB of it; cheaper than `open()`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = part = os.read(descriptor, _READ)
        while len(part) == _READ and len(data) < _MOST:
            part = os.read(descriptor, _READ)
            data += part
        return data
    finally:
        os.close(descriptor)


def read_stat(pid: int | str) -> Stat | None:
    """What the kernel knows of a process; None when there is none with this pid, or none that this user may
    see (`hidepid`, see proc(5))."""
    try:
        data = read_file(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return parse_stat(data)


def parse_stat(data: bytes) -> Stat:
    """Reads one line of `/proc/<pid>/stat`. The command's name may hold anything, so it counts from its
    last ')'."""
    fields = data[data.rindex(b")") + 2 :].split()
    return Stat(
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        session=int(fields[3]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
        threads=int(fields[17]),
        start=int(fields[19]),
        wait_status=int(fields[49]),
    )


@cache
def _shared_device() -> int:
    """The device of the one inode that anonymous files share: where pidfds had theirs before pidfs."""
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def identify(pid: int, pidfd: int) -> Identity | None:
    """The identity of the process that `pidfd` refers to; None when it is gone."""
    stat = read_stat(pid)
    if stat is None or not exists(pidfd):
        return None
    return Identity(boot_id(), pid, stat.start, inode(pidfd))


def inode(pidfd: int) -> int:
    """The number by which a pidfd tells its process from any other of this boot; 0 where the kernel has
    none."""
    info = os.fstat(pidfd)
    return 0 if info.st_dev == _shared_device() else info.st_ino


def open_verified(identity: Identity) -> int | None:
    """A pidfd of exactly this process, for the caller to close; None when it is gone or its pid is
    another's."""
    if identity.boot_id != boot_id():
        return None
    pidfd = open_pidfd(identity.pid)
    if pidfd is None:
        return None
    if identify(identity.pid, pidfd) == identity:
        return pidfd
    os.close(pidfd)
    return None


def open_pidfd(pid: int) -> int | None:
    """A pidfd for the caller to close; None when no process has this pid. Raises OSError (no descriptors)."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # the pid of a thread, not of a process
            return None
        raise


def exists(pidfd: int) -> bool:
    """Whether the process is not yet reaped. While it is not, its pid is nobody else's."""
    return send_signal(pidfd, 0)


def send_signal(pidfd: int, signum: int) -> bool:
    """Signals the process behind `pidfd`, never another; False when it is gone or may not be signalled."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        return signum == 0  # it exists
    return True


def has_ended(pidfd: int, timeout: int = 0) -> bool:
    """Whether the process has ended, threads and all, at the latest after `timeout` ms."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout))


def reap(pidfd: int, *, block: bool = False) -> ExitStatus | None:
    """Reaps an ended child of this process. None while it runs (unless `block`).

    Raises ChildProcessError when it is no child of ours.
    """
    # P_PIDFD is in the os module of every Linux build.
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | (0 if block else os.WNOHANG))
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)


def exit_status_of_non_child(identity: Identity, pidfd: int) -> ExitStatus:
    """How an ended process that is no child of ours ended; an empty status when the kernel cannot tell (any
    more).

    Until its parent reaps it, it stands in /proc; from then on the pidfd knows, from Linux 6.15.
    """
    status = _status_from_pidfd(pidfd)
    if status is None:
        status = _status_of_zombie(identity, pidfd)
    if status is None:
        status = _status_from_pidfd(pidfd)  # reaped between the two
    return ExitStatus() if status is None else decode_wait_status(status)


def decode_wait_status(status: int) -> ExitStatus:
    """An exit status as wait(2) encodes it."""
    if os.WIFSIGNALED(status):
        return ExitStatus(signal=os.WTERMSIG(status))
    return ExitStatus(code=os.WEXITSTATUS(status))


def _status_from_pidfd(pidfd: int) -> int | None:
    buffer = bytearray(_INFO.pack(_INFO_EXIT, *([0] * 13)))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, buffer)
    except OSError:  # an older kernel, or not reaped yet
        return None
    values = _INFO.unpack(buffer)
    return int(values[-1]) if values[0] & _INFO_EXIT else None


def _status_of_zombie(identity: Identity, pidfd: int) -> int | None:
    try:
        owner = os.stat(f"/proc/{identity.pid}").st_uid
        stat = read_stat(identity.pid)
    except OSError:
        return None
    if stat is None or stat.start != identity.start or stat.alive or not exists(pidfd):
        return None
    # To those who may not look closer the kernel shows 0.
    return stat.wait_status if os.geteuid() in (0, owner) else None
