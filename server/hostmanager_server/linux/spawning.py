"""Child processes started by `spawn.c`: in a new session, with limits, in a cgroup, noted in a record."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from hostmanager.values import dataclass, field

LIBRARY = Path(__file__).with_name("_spawn.so")
# The kernel or a filter of system calls (seccomp) lacks clone's flags (Linux 5.2) or close_range (5.9).
_MISSING = (errno.ENOSYS, errno.EPERM, errno.EINVAL)
_LAYOUT = 4  # of the request; changes with `hostmanager_spawn_layout` in `spawn.c`
_NO_NICE = 127  # outside of the range of nice values
_SLOTS = 4  # input, output, lock and record, in this order


class Step(IntEnum):
    """A step of a start, in order; see `spawn.c`."""

    CLONE = 0
    TABLE = 1
    DESCRIPTOR = 2
    NOTE = 3
    LIMIT = 4
    NICE = 5
    DIRECTORY = 6
    EXEC = 7


class SpawnError(OSError):
    """A start that failed at `step`; for LIMIT, at the limit with the index `limit`."""

    def __init__(self, number: int, step: Step, limit: int = 0) -> None:
        super().__init__(number, os.strerror(number))
        self.step = step
        self.limit = limit


class SpawnUnavailableError(Exception):
    """Starts through `spawn.c` are impossible on this host."""


@dataclass(frozen=True, slots=True)
class Note:
    """The text that a child writes into its record through `file`, at offset `at`.

    The last `digits` bytes of the text become the child's pid, behind blanks.
    """

    file: int
    at: int
    text: bytes
    digits: int


@dataclass(frozen=True, slots=True)
class ResourceLimit:
    """A soft and a hard resource limit, by the number of its kind."""

    kind: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Program:
    """A program to execute, with its texts.

    None for `umask` or `nice`: as in this process.
    """

    path: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    working_dir: str = "/"
    umask: int | None = None
    nice: int | None = None


@dataclass(frozen=True, slots=True)
class Heritage:
    """What a child gets from this process besides its program.

    `output` becomes stdout and stderr, and `lock` gets the number `lock_number`. The child has `mark` before
    it writes `note`, and `limits` afterwards. `cgroup` is a descriptor of a cgroup's directory; a child that
    may not enter the cgroup starts outside.
    """

    output: int
    lock: int = -1
    lock_number: int = -1
    note: Note | None = None
    mark: ResourceLimit | None = None
    limits: Sequence[ResourceLimit] = ()
    cgroup: int = -1


class _SpawnRequest(ctypes.Structure):
    _fields_ = (
        ("program", ctypes.c_char_p),
        ("argv", ctypes.c_char_p),
        ("env", ctypes.c_char_p),
        ("directory", ctypes.c_char_p),
        ("note", ctypes.c_char_p),
        ("limit_names", ctypes.POINTER(ctypes.c_int32)),
        ("limits", ctypes.POINTER(ctypes.c_uint64)),
        ("argv_count", ctypes.c_int64),
        ("env_count", ctypes.c_int64),
        ("note_length", ctypes.c_int64),
        ("note_at", ctypes.c_int64),
        ("digits", ctypes.c_int64),
        ("words", ctypes.c_void_p),
        ("passed", ctypes.c_int32 * _SLOTS),
        ("slots", ctypes.c_int32 * _SLOTS),
        ("above", ctypes.c_int32),
        ("lock_number", ctypes.c_int32),
        ("limits_before", ctypes.c_int32),
        ("limit_count", ctypes.c_int32),
        ("cgroup", ctypes.c_int32),
        ("join", ctypes.c_int32),
        ("umask", ctypes.c_int32),
        ("nice", ctypes.c_int32),
        ("pid", ctypes.c_int32),
        ("pidfd", ctypes.c_int32),
        ("step", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("failed_limit", ctypes.c_int32),
    )


class Spawner:
    """Starts children at a cost that no number of open files or agents changes.

    Keeps four descriptors: the numbers below which a child finds what it inherits. Create a spawner early,
    while low numbers are free.
    """

    def __init__(self, library: Path = LIBRARY) -> None:
        """Load the library.

        Raises SpawnUnavailableError where the library was not built, and OSError for a lack of descriptors.
        """
        try:
            loaded = ctypes.CDLL(str(library))
            self._spawn = loaded.hostmanager_spawn
            layout = ctypes.c_int32.in_dll(loaded, "hostmanager_spawn_layout").value
        except (OSError, AttributeError, ValueError) as error:
            raise SpawnUnavailableError(str(error)) from error
        if layout != _LAYOUT << 16 | ctypes.sizeof(_SpawnRequest):
            raise SpawnUnavailableError(f"'{library}' was built from another version; install again")
        self._spawn.argtypes = (ctypes.POINTER(_SpawnRequest),)
        self._lock = threading.Lock()
        self._slots: list[int] = []
        try:
            for _ in range(_SLOTS):
                self._slots.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise
        self._numbers = tuple(self._slots)
        self._above = max(self._slots) + 1

    @property
    def null(self) -> int:
        """A descriptor of /dev/null."""
        return self._slots[0]

    def close(self) -> None:
        """Close the descriptors of the spawner."""
        while self._slots:
            os.close(self._slots.pop())

    def spawn(self, program: Program, heritage: Heritage) -> tuple[int, int]:
        """Start a child that has executed its program, and return its pid and a pidfd.

        The caller closes the pidfd. Blocks until the child executes, and lets other threads run meanwhile.
        Raises SpawnError with no child left, ValueError for a NUL byte, and SpawnUnavailableError where the
        kernel lacks a system call, with nothing done.
        """
        request = _SpawnRequest()
        self._describe(request, program)
        self._hand_down(request, heritage)
        with self._lock:
            failed = self._spawn(ctypes.byref(request))
            if failed and request.step == Step.CLONE and heritage.cgroup >= 0:
                # The kernel (before 5.7), a filter or the group refuses a start inside the group.
                request.join = 1
                failed = self._spawn(ctypes.byref(request))
        if not failed:
            return request.pid, request.pidfd
        step = Step(request.step)
        if step in (Step.CLONE, Step.TABLE) and request.error in _MISSING:
            raise SpawnUnavailableError(f"the system call for '{step.name}': {os.strerror(request.error)}")
        raise SpawnError(request.error, step, max(0, request.failed_limit - request.limits_before))

    @staticmethod
    def _describe(request: _SpawnRequest, program: Program) -> None:
        request.program = _encoded([program.path])
        request.argv = _encoded(program.argv)
        request.argv_count = len(program.argv)
        request.env = _encoded([f"{name}={value}" for name, value in program.env.items()])
        request.env_count = len(program.env)
        request.directory = _encoded([program.working_dir])
        request.umask = -1 if program.umask is None else program.umask
        request.nice = _NO_NICE if program.nice is None else program.nice

    def _hand_down(self, request: _SpawnRequest, heritage: Heritage) -> None:
        note, file = heritage.note, -1
        if note is not None:
            file = note.file
            request.note, request.note_length = note.text, len(note.text)
            request.note_at, request.digits = note.at, note.digits
        request.passed = (self._slots[0], heritage.output, heritage.lock, file)
        request.slots = self._numbers
        request.above = self._above
        request.lock_number = heritage.lock_number
        limits = list(heritage.limits)
        if heritage.mark is not None:
            limits.insert(0, heritage.mark)
            request.limits_before = 1
        if limits:
            numbers = [number for limit in limits for number in (limit.soft, limit.hard)]
            request.limit_names = (ctypes.c_int32 * len(limits))(*[limit.kind for limit in limits])
            request.limits = (ctypes.c_uint64 * len(numbers))(*numbers)
            request.limit_count = len(limits)
        request.cgroup = heritage.cgroup


def _encoded(words: Sequence[str]) -> bytes:
    """Return texts one behind the other, each ended by a NUL except the last, which ctypes ends."""
    data = os.fsencode("\0".join(words))
    if data.count(b"\0") >= max(1, len(words)):
        raise ValueError("embedded null byte")
    return data
