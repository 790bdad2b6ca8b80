"""Orphans: descendants of this process that lost their parent, which the kernel makes its children.

A child subreaper gets the orphans among its descendants, as process 1 does (PR_SET_CHILD_SUBREAPER). The
kernel makes an orphan a child of the first thread, and a new process a child of the thread that started it.
Therefore the children of the first thread are the orphans, as long as no other thread with living children
ends, and the first thread starts no process of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import FrameType

from hostmanager_server.linux import child_signals

# linux/prctl.h and linux/wait.h
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_WNOTHREAD = 0x20000000
_READ = 1 << 16
_ROUNDS = 10  # a reading of orphans that is not complete by then is left to the next call

_libc = ctypes.CDLL(None, use_errno=True)


def set_subreaper(*, enabled: bool = True) -> bool:
    """Make this process a child subreaper or not, and return whether the process was one before.

    The attribute survives an exec, and holds for all descendants that start later. Raises OSError.
    """
    before = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(before))
    _prctl(_PR_SET_CHILD_SUBREAPER, int(enabled))
    return bool(before.value)


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Orphans:
    """The living orphans of this process, and their reaping.

    `inherited`: this process was a subreaper before, so an earlier program of it had the orphans too.
    `spared` holds the pids of children that another part of this process reaps: after an exec, those of
    earlier threads are children of the first thread. `ended` are descriptors, one of which becomes readable
    after the end of an orphan, once `listen` and `start` were called; perhaps also after the end of another
    child.
    """

    def __init__(self, children: Path | None = None) -> None:
        """Make this process a subreaper. `children` replaces the file of the first thread's children."""
        self.spared: set[int] = set()
        self._late: set[int] = set()
        self.complete = True  # the last `reap` found all orphans
        self._noticed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # by the handler of SIGCHLD
        self._signals: int | None = None
        self._file: int | None = None
        self._listening = False
        self._started = False
        path = children or Path(f"/proc/self/task/{os.getpid()}/children")
        try:
            self.inherited = set_subreaper()
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without CONFIG_PROC_CHILDREN, or a filter of system calls
            self.inherited = False

    @property
    def ended(self) -> list[int]:
        """The descriptors that tell of ended orphans; `clear` makes them unreadable."""
        return [self._noticed] if self._signals is None else [self._noticed, self._signals]

    @property
    def known(self) -> bool:
        """Whether the kernel lists the orphans, so that descent shows every process of a new run."""
        return self._file is not None

    def reap(self) -> list[int]:
        """Reap the ended orphans, and return the pids of the living, the oldest first.

        Only the thread that calls this method reaps orphans: until then no other process has a returned pid.
        An agent whose orphans end faster than the method reads them does not hold up the caller: `complete`
        is False then.
        """
        self._late = {pid for pid in self._late if not _reap(pid)}
        alive: list[int] = []
        for _ in range(_ROUNDS):
            self.complete = True
            alive = []
            for pid in self._children():
                if pid in self.spared or pid in self._late:
                    continue
                if _reap(pid):
                    self.complete = False  # an orphan that ended after the listing may have left children
                else:
                    alive.append(pid)
            if self.complete:
                break
        return alive

    def reap_later(self, pid: int) -> None:
        """Let `reap` also reap an ended child that is no orphan, once the process that traces it lets go."""
        self._late.add(pid)

    def _children(self) -> list[int]:
        if self._file is None:
            return []
        data = part = os.pread(self._file, _READ, 0)
        while part:
            part = os.pread(self._file, _READ, len(data))
            data += part
        return [int(pid) for pid in data.split()]

    def listen(self) -> None:
        """Block or handle SIGCHLD. Call on the first thread, before other threads start.

        The handler serves where the kernel lists no orphans, so that only the first thread can find them,
        and while `child_signals.unblocked` lets the signal through.
        """
        self._listening = True
        signal.signal(signal.SIGCHLD, self._child_ended)
        signal.siginterrupt(signal.SIGCHLD, False)
        self._signals = None if self._file is None else child_signals.open_descriptor()
        if self._signals is None:
            child_signals.unblock()
        else:
            child_signals.block()

    def start(self) -> None:
        """Make one of `ended` readable after each end of an orphan from now on, and for earlier ends.

        Before the call `spared` must hold the children that are no orphans.
        """
        self._started = True
        if self._listening:
            os.kill(os.getpid(), signal.SIGCHLD)

    def _child_ended(self, _signum: int, _frame: FrameType | None) -> None:
        # Most signals concern agents, which the supervisor's thread started and reaps. The handler runs
        # between any two operations of the first thread, so it must take no lock.
        while self._started and (pid := _ended_child_of_this_thread()) and pid not in self.spared:
            if self._file is not None:
                os.eventfd_write(self._noticed, 1)
                return
            if not _reap(pid):  # the kernel lists no orphans, so no other thread knows of them
                return

    def clear(self) -> None:
        """Make `ended` unreadable."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._noticed)
        if self._signals is not None:
            child_signals.clear(self._signals)

    def close(self) -> None:
        """Reap no more, and close the descriptors.

        The handler of `listen` keeps its own, until this process ends or executes its successor, which reaps.
        """
        self._started = False
        for descriptor in (self._file, self._signals):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._signals = None
        if not self._listening:
            os.close(self._noticed)


def _ended_child_of_this_thread() -> int:
    """Return the pid of an ended child of the calling thread, left unreaped; 0 for none."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WNOTHREAD)
    except ChildProcessError:
        return 0
    return 0 if info is None else info.si_pid


def _reap(pid: int) -> bool:
    """Reap a child if it has ended; return whether it is gone."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True
