"""The gate: a child that waits to be recorded before it becomes the agent.

Between spawn and release the daemon writes down who the child is. If the daemon dies in between, the pipe
that the gate waits on closes and the gate leaves, so an agent never runs without a record of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass

SHELL = "/bin/sh"

# Reads the release from its standard input, which the agent then gets as /dev/null. It notes that in the
# record, as the daemon does, which may die before it has; its limit on the size of files is the agent's, and
# going beyond that is not to end it here. `cd` exports OLDPWD, which the agent was not given.
SCRIPT = (
    "read -r HOSTMANAGER_GATE || exit; trap '' XFSZ; { printf 1 >&3; } 2>/dev/null; trap - XFSZ; exec 3>&-; "
    'cd "$1" && unset OLDPWD && shift && exec "$@" </dev/null'
)

# Moves the shell into the cgroup of this path; its status says whether that was allowed. A move waits until
# all processors have passed through the scheduler: some 10 ms on an idle machine, next to nothing in a burst.
# So the child does it, while the daemon goes on; and before it becomes the agent, so that nothing that this
# starts is outside.
JOIN = 'echo 0 >"$1/cgroup.procs"'
_SCRIPT_WITH_GROUP = f"{{ {JOIN}; }} 2>/dev/null; shift; {SCRIPT}"

_ARGV0 = (SHELL, "-c", SCRIPT, "gate")
_ARGV0_WITH_GROUP = (SHELL, "-c", _SCRIPT_WITH_GROUP, "gate")
_CMDLINES = tuple(
    b"\0".join(os.fsencode(word) for word in argv) + b"\0" for argv in (_ARGV0, _ARGV0_WITH_GROUP)
)

_LOCK_DESCRIPTOR = 250  # high, so that scripts that number their own descriptors do not meet it

# Ignored signals stay ignored across exec, and a shell's background job starts with INT ignored: an agent
# of a daemon started so would not hear its stop signal. 32 and 33 are the C library's own.
_DEFAULTED = [n for n in range(1, signal.SIGRTMAX + 1) if n not in (signal.SIGKILL, signal.SIGSTOP, 32, 33)]


@dataclass(frozen=True, slots=True)
class Gate:
    """A child in the gate. `descriptor` is the write end of its pipe, for the caller to close."""

    pid: int
    descriptor: int

    def release(self) -> None:
        """Lets the child become the agent. A child that died meanwhile is its exit's business, not an error
        here."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.descriptor, b"\n")


def lock_descriptor() -> int:
    """The number under which every agent holds its record: 250, or lower where the limit is."""
    return min(_LOCK_DESCRIPTOR, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1)


def spawn(
    argv: list[str],
    working_dir: str,
    env: Mapping[str, str],
    output: int,
    lock: int,
    flag: int,
    group: str | None = None,
) -> Gate:
    """Starts a child that waits in the gate, in a session of its own.

    It gets `output` as stdout and stderr and `lock` under `lock_descriptor()`; every other descriptor must be
    close-on-exec (`seal_descriptors`). To `flag` it writes a 1 when it is released, and closes it. It moves
    itself into the cgroup at `group`, where it can. Raises OSError, or ValueError for a NUL byte.
    """
    if flag == lock_descriptor():
        flag = os.dup(flag)
        try:
            return spawn(argv, working_dir, env, output, lock, flag, group)
        finally:
            os.close(flag)
    words = _ARGV0 if group is None else (*_ARGV0_WITH_GROUP, group)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        # posix_spawn, not Popen: half the cost, and it resets every signal.
        pid = os.posix_spawn(
            SHELL,
            [*words, working_dir, *argv],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_end, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, lock, lock_descriptor()),
                (os.POSIX_SPAWN_DUP2, flag, 3),  # the last one, as any of the others may have that number
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTED,
        )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Gate(pid, write_end)


def spawn_ungated(argv: list[str], working_dir: str, env: Mapping[str, str]) -> int:
    """Starts a helper command with its output thrown away, in a session of its own; its pid.

    Raises OSError, or ValueError for a NUL byte.
    """
    return os.posix_spawn(
        SHELL,
        [SHELL, "-c", 'cd "$1" && unset OLDPWD && shift && exec "$@"', "probe", working_dir, *argv],
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=_DEFAULTED,
    )


def still_in_gate(cmdline: bytes) -> bool:
    """Whether a process with this command line has not yet become the agent."""
    return cmdline.startswith(_CMDLINES)


def shell_safe(argv: list[str], env: Mapping[str, str]) -> list[str]:
    """`argv` such that the shell hands all of `env` on: it drops what it could not name as a variable."""
    unnameable = [
        f"{name}={value}" for name, value in env.items() if not (name.isascii() and name.isidentifier())
    ]
    return ["env", "--", *unnameable, *argv] if unnameable else argv


def seal_descriptors() -> None:
    """Keeps what this process itself inherited from being inherited further.

    Python and gRPC open everything close-on-exec; what a shell or a make left open for the daemon is not.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # lands on the lowest free number: this one
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor
                os.set_inheritable(int(name), False)


def explain(error: OSError) -> str:
    """Why a child could not be spawned, and what to do about it."""
    match error.errno:
        case errno.EMFILE:
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return f"the daemon has no file descriptors left (its limit is {soft}); raise that (nofile)"
        case errno.ENFILE:
            return "the host has no file descriptors left; raise the sysctl fs.file-max"
        case errno.EAGAIN:
            return "the host or the daemon's user has too many processes; raise nproc or kernel.pid_max"
        case errno.ENOMEM:
            return "the host is out of memory; free some"
        case errno.ENOSPC:
            return f"no space left{_at(error)}; free some"
        case errno.EDQUOT:
            return f"the disk quota is used up{_at(error)}; free some space or raise the quota"
        case errno.EROFS:
            return f"the disk is read-only{_at(error)}; see why (dmesg), and mount it writable again"
        case errno.EIO:
            return f"the disk fails{_at(error)}; see why (dmesg)"
        case errno.E2BIG:
            return "its arguments and environment are longer than the kernel takes; shorten them"
        case _:
            where = f" '{error.filename}'" if error.filename else ""
            return f"{error.strerror}{where}"


def _at(error: OSError) -> str:
    return f" for '{error.filename}'" if error.filename else ""
