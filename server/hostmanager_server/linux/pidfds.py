"""Process identities that survive pid reuse, and pidfds."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
from functools import cache

from hostmanager.values import dataclass

from hostmanager_server.core.events import ExitStatus

# struct pidfd_info of linux/pidfd.h, first version: mask, cgroup id, eleven ids, exit code.
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
# _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)
_GET_INFO = (3 << 30) | (_INFO.size << 16) | (0xFF << 8) | 11
_PF_KTHREAD = 0x00200000
_START = 19  # the index of the start time among the fields of /proc/PID/stat behind the name
_LIMIT_SIGNALS: dict[int, str] = {
    signal.SIGXCPU: "cpu",
    signal.SIGXFSZ: "fsize",
}  # as in a site config
_READ = 1 << 16  # longer than a sane process's environment; longer files take several reads
_MOST = 8 << 20  # the kernel accepts 6 MiB at an exec; a process can fake an environment of any size


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a process, unique among all processes that ever had its pid.

    `start` is in clock ticks since boot. Start times are too coarse to detect a quick reuse of a pid (in
    forced reuses they collided 27 times in 30), so the identity includes `inode`, the unique number of the
    process's pidfd; 0 where the kernel has none (before Linux 6.9). Both are void after a reboot.
    """

    boot_id: str
    pid: int
    start: int
    inode: int


@dataclass(frozen=True, slots=True)
class Stat:
    """Fields of `/proc/PID/stat`.

    `start` is in clock ticks since boot; `wait_status` has the encoding of wait(2).
    """

    state: str
    parent: int
    session: int
    kernel_thread: bool
    threads: int
    start: int
    wait_status: int
    cpu_ticks: int  # clock ticks of CPU time, of all threads

    @property
    def alive(self) -> bool:
        """False for a zombie, unless other threads of the process still run."""
        return self.threads > 1 if self.state == "Z" else self.state not in "Xx"


@cache
def boot_id() -> str:
    """Return the kernel's random name of this boot."""
    return read_file("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def unknown_process() -> Identity:
    """Return the identity of a process of this boot of which nothing is known yet."""
    return Identity(boot_id(), 0, 0, 0)


def read_file(path: str) -> bytes:
    """Return the content of a small file, at most 8 MiB. Raises OSError.

    The function is cheaper than `open()`.
    """
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
    """Return the state of a process; None for none, or one hidden from this user.

    The mount option `hidepid` hides processes of other users, see proc(5).
    """
    try:
        data = read_file(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return parse_stat(data)


def parse_stat(data: bytes) -> Stat:
    """Parse one line of `/proc/PID/stat`.

    The name of the command may contain any character, so the fields are counted from the last ')'.
    """
    fields = data[data.rindex(b")") + 2 :].split()
    return Stat(
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        session=int(fields[3]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
        threads=int(fields[17]),
        start=int(fields[_START]),
        wait_status=int(fields[49]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
    )


@cache
def _shared_device() -> int:
    """Return the device of the inode that anonymous files share.

    Before pidfs, pidfds shared the inode too.
    """
    descriptor = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def identify(pid: int, pidfd: int) -> Identity | None:
    """Return the identity of the process behind `pidfd`; None if it is gone."""
    stat = read_stat(pid)
    if stat is None or not exists(pidfd):
        return None
    return Identity(boot_id(), pid, stat.start, inode(pidfd))


def identify_child(pid: int, pidfd: int) -> Identity:
    """Return the identity of a child that only the calling thread can reap. Raises OSError.

    Until then no other process has its pid, which spares half of the work of `identify`.
    """
    data = read_file(f"/proc/{pid}/stat")
    start = data[data.rindex(b")") + 2 :].split(b" ", _START + 1)[_START]
    return Identity(boot_id(), pid, int(start), inode(pidfd))


def inode(pidfd: int) -> int:
    """Return the unique number of a pidfd's process in this boot; 0 on old kernels."""
    info = os.fstat(pidfd)
    return 0 if info.st_dev == _shared_device() else info.st_ino


def open_verified(identity: Identity) -> int | None:
    """Return a pidfd of exactly this process, for the caller to close.

    Returns None when the process is gone, or another process has the pid. Raises OSError (no descriptors).
    """
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
    """Return a pidfd for the caller to close; None when no process has this pid.

    Raises OSError (no descriptors).
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # the number of a thread, not of a process
            return None
        raise


def exists(pidfd: int) -> bool:
    """Return whether the process is unreaped; until then no other has its pid."""
    return send_signal(pidfd, 0)


def send_signal(pidfd: int, signum: int) -> bool:
    """Signal the process behind `pidfd`; return False when it is gone or off limits.

    The signal never reaches another process with the same pid.
    """
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        return signum == 0  # the process exists
    return True


def has_ended(pidfd: int, timeout: int = 0) -> bool:
    """Return whether the process, all threads included, ends within `timeout` ms."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout))


def reap(pidfd: int) -> ExitStatus | None:
    """Reap an ended child and return its exit status; None while the child runs, or a debugger keeps it.

    Raises ChildProcessError for a process that is no child of this one.
    """
    # P_PIDFD is in the os module of every Linux build.
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return killed_by(result.si_status, core_dumped=result.si_code == os.CLD_DUMPED)


def is_child(pidfd: int) -> bool:
    """Return whether the process is an unreaped child of this one."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def exit_status_of_non_child(identity: Identity, pidfd: int) -> ExitStatus:
    """Return the exit status of an ended process that cannot be reaped; empty if unknown.

    Until the parent reaps the process, /proc has the status; afterwards the pidfd has it, from Linux 6.15.
    """
    status = _status_from_pidfd(pidfd)
    if status is None:
        status = _status_of_zombie(identity, pidfd)
    if status is None:
        status = _status_from_pidfd(pidfd)  # reaped between the two readings
    return ExitStatus() if status is None else decode_wait_status(status)


def killed_by(signum: int, *, core_dumped: bool = False) -> ExitStatus:
    """Return the exit status for a fatal signal, with the resource limit that the signal tells of."""
    return ExitStatus(signal=signum, core_dumped=core_dumped, limit=_LIMIT_SIGNALS.get(signum, ""))


def decode_wait_status(status: int) -> ExitStatus:
    """Return the exit status that wait(2) encodes as this number."""
    if os.WIFSIGNALED(status):
        return killed_by(os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    return ExitStatus(code=os.WEXITSTATUS(status))


def _status_from_pidfd(pidfd: int) -> int | None:
    buffer = bytearray(_INFO.pack(_INFO_EXIT, *([0] * 13)))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, buffer)
    except OSError:  # an older kernel, or an unreaped process
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
    # The kernel shows 0 to users without the right to inspect the process.
    return stat.wait_status if os.geteuid() in (0, owner) else None
