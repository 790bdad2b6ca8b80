"""The gate: a child that waits for its record before it becomes the agent.

Between spawn and release the daemon writes the record of the child. If the daemon dies in between, the pipe
that the gate reads from closes and the gate exits. So an agent never runs without a record.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Mapping

from hostmanager.values import dataclass

SHELL = "/bin/sh"

# Reads the release from standard input, which becomes /dev/null for the agent. The gate notes the release
# in the record, as the daemon does, because the daemon may die before it can. The agent's limit on file
# sizes already applies, and must not kill the gate (XFSZ). The first word is the umask, or empty. `cd`
# exports OLDPWD, which is not part of the agent's environment.
SCRIPT = (
    "read -r HOSTMANAGER_GATE || exit; trap '' XFSZ; { printf 1 >&3; } 2>/dev/null; trap - XFSZ; exec 3>&-; "
    '[ -z "$1" ] || umask "$1"; shift; cd "$1" && unset OLDPWD && shift && exec "$@" </dev/null'
)

# Moves the shell into the cgroup at this path; the exit status says whether the move was allowed. A move
# waits until all processors have passed through the scheduler: about 10 ms on an idle machine, nearly
# nothing in a burst. Therefore the child moves itself while the daemon goes on, and moves before it becomes
# the agent, so that no process of the agent starts outside the cgroup.
JOIN = 'echo 0 >"$1/cgroup.procs"'
_SCRIPT_WITH_GROUP = f"{{ {JOIN}; }} 2>/dev/null; shift; {SCRIPT}"

_ARGV0 = (SHELL, "-c", SCRIPT, "gate")
_ARGV0_WITH_GROUP = (SHELL, "-c", _SCRIPT_WITH_GROUP, "gate")
_CMDLINES = tuple(
    b"\0".join(os.fsencode(word) for word in argv) + b"\0" for argv in (_ARGV0, _ARGV0_WITH_GROUP)
)

_LOCK_DESCRIPTOR = 250  # high, to stay clear of descriptors that scripts number by hand

# Ignored signals stay ignored across exec, and a shell starts background jobs with INT ignored: an agent of
# such a daemon would miss its stop signal. The C library owns signals 32 and 33.
_DEFAULTED = [n for n in range(1, signal.SIGRTMAX + 1) if n not in (signal.SIGKILL, signal.SIGSTOP, 32, 33)]


@dataclass(frozen=True, slots=True)
class Gate:
    """A child in the gate; `descriptor` is the write end of its pipe.

    The caller closes the descriptor.
    """

    pid: int
    descriptor: int

    def release(self) -> None:
        """Let the child become the agent.

        If the child has died meanwhile, the exit status of the child reports the death; `release` raises
        nothing.
        """
        with contextlib.suppress(BrokenPipeError):
            os.write(self.descriptor, b"\n")


def lock_descriptor() -> int:
    """Return the descriptor number of an agent's record: 250, or the limit - 1."""
    return min(_LOCK_DESCRIPTOR, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1)


def spawn(
    argv: list[str],
    working_dir: str,
    env: Mapping[str, str],
    output: int,
    lock: int,
    flag: int,
    group: str | None = None,
    umask: int | None = None,
) -> Gate:
    """Start a child that waits in the gate, in a new session, and return the gate.

    The child gets `output` as stdout and stderr, and `lock` under `lock_descriptor()`; every other
    descriptor must be close-on-exec (`seal_descriptors`). On release the child writes a 1 to `flag` and
    closes it. The child tries to move itself into the cgroup at `group`. Raises OSError, or ValueError for
    a NUL byte.
    """
    if flag == lock_descriptor():
        flag = os.dup(flag)
        try:
            return spawn(argv, working_dir, env, output, lock, flag, group, umask)
        finally:
            os.close(flag)
    words = _ARGV0 if group is None else (*_ARGV0_WITH_GROUP, group)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        # posix_spawn costs half as much as Popen, and resets every signal.
        pid = os.posix_spawn(
            SHELL,
            [*words, _umask_word(umask), working_dir, *shell_safe(argv, env)],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read_end, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, lock, lock_descriptor()),
                (os.POSIX_SPAWN_DUP2, flag, 3),  # comes last: any of the other descriptors may have number 3
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


def set_nice(pid: int, nice: int | None) -> None:
    """Set the nice value of a child, unless None. Raises PermissionError."""
    if nice is not None:
        os.setpriority(os.PRIO_PROCESS, pid, nice)


def refused_nice(nice: int | None, error: OSError) -> str:
    """Return the text for a nice value that the kernel refused."""
    return (
        f"cannot set its nice value to {nice}: {error.strerror}; only root, or a limit 'nice', allows a "
        "value below the daemon's; raise 'nice'"
    )


def spawn_ungated(argv: list[str], working_dir: str, env: Mapping[str, str], umask: int | None = None) -> int:
    """Start a helper command in a new session, without output, and return its pid.

    Raises OSError, or ValueError for a NUL byte.
    """
    return os.posix_spawn(
        SHELL,
        [
            SHELL,
            "-c",
            '[ -z "$1" ] || umask "$1"; shift; cd "$1" && unset OLDPWD && shift && exec "$@"',
            "probe",
            _umask_word(umask),
            working_dir,
            *shell_safe(argv, env),
        ],
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


def _umask_word(umask: int | None) -> str:
    return "" if umask is None else f"{umask:04o}"


def still_in_gate(cmdline: bytes) -> bool:
    """Return whether a process with this command line has not yet become the agent."""
    return cmdline.startswith(_CMDLINES)


def shell_safe(argv: list[str], env: Mapping[str, str]) -> list[str]:
    """Return `argv` such that the shell passes on all of `env`.

    A shell drops variables with names that are not identifiers; env(1) sets them again.
    """
    unnameable = [
        f"{name}={value}" for name, value in env.items() if not (name.isascii() and name.isidentifier())
    ]
    return ["env", "--", *unnameable, *argv] if unnameable else argv


def seal_descriptors() -> None:
    """Make every descriptor that the daemon inherited close-on-exec.

    Python and gRPC open all descriptors close-on-exec; those that a shell or make left open are not.
    Missing descriptors 0 to 2 are opened on /dev/null.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the kernel assigns the lowest free number, which is `descriptor`
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor
                os.set_inheritable(int(name), False)


def explain(error: OSError) -> str:
    """Return why a child could not be started, and how the operator can help."""
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
