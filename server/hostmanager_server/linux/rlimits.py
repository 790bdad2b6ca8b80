"""Resource limits by the names in site configs, set on a process before it runs."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterable

from hostmanager_server.linux.spawning import ResourceLimit

_UNLIMITED = (1 << 64) - 1  # RLIM_INFINITY as the kernel has it; the resource module says -1
_LOCKS = 10  # RLIMIT_LOCKS of asm-generic/resource.h; missing in the resource module

# Values have the units of setrlimit(2): bytes, seconds, counts; not the kilobytes of a shell's `ulimit`.
LIMITS: dict[str, int] = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": _LOCKS,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}


# An empty table of this size costs nothing, and some programs count up to the limit.
_MOST_FILES = 1 << 19
_inherited_files: tuple[int, int] | None = None  # the limit at the start of the daemon


def raise_own_files() -> None:
    """Raise this process's limit of open files as far as possible, up to 524,288.

    The daemon needs some files for each agent. `apply_limits` restores the original limit for agents.
    """
    global _inherited_files  # noqa: PLW0603 -- as global as the limit is
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        _inherited_files = (soft, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def lower_own_files() -> None:
    """Undo `raise_own_files` before this process executes another program.

    The program would otherwise pass the raised limit on to its agents. Open files stay open.
    """
    if _inherited_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, _inherited_files)


class LimitError(Exception):
    """A resource limit that the daemon could not set; the text is for the operator."""


def resolve_limits(limits: Iterable[tuple[str, int | None]]) -> list[tuple[str, ResourceLimit]]:
    """Return the limits of a new process by name; None is unlimited. Raises LimitError.

    The first is the daemon's original limit of open files, if the daemon raised its own.
    """
    resolved = []
    if _inherited_files is not None:
        resolved.append(("nofile", ResourceLimit(resource.RLIMIT_NOFILE, *map(_unsigned, _inherited_files))))
    for name, value in limits:
        number = LIMITS.get(name)
        if number is None:
            raise LimitError(f"there is no limit '{name}' (known: {', '.join(LIMITS)})")
        if value is not None and not 0 <= value <= _UNLIMITED:
            raise LimitError(f"cannot set the limit '{name}' to {value}: the value must be 0 to {_UNLIMITED}")
        wanted = _UNLIMITED if value is None else value
        resolved.append((name, ResourceLimit(number, wanted, wanted)))
    return resolved


def apply_limits(pid: int, limits: Iterable[tuple[str, ResourceLimit]]) -> None:
    """Set resolved limits of a process. Raises LimitError."""
    for name, limit in limits:
        try:
            resource.prlimit(pid, limit.kind, (_signed(limit.soft), _signed(limit.hard)))
        except (OSError, ValueError) as error:
            raise refused_limit(name, limit, error) from error


def refused_limit(name: str, limit: ResourceLimit, error: Exception) -> LimitError:
    """Return the LimitError for a limit that the kernel refused."""
    shown = "unlimited" if limit.hard == _UNLIMITED else str(limit.hard)
    if isinstance(error, OSError) and error.errno == errno.EPERM:
        _, hard = resource.getrlimit(limit.kind)
        most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
        return LimitError(
            f"cannot set the limit '{name}' to {shown}: the daemon's own is {most} and only root may "
            "raise it; lower the value or raise the daemon's limit"
        )
    return LimitError(f"cannot set the limit '{name}' to {shown}: {error}")


def _unsigned(value: int) -> int:
    return value & _UNLIMITED


def _signed(value: int) -> int:
    """Return a limit as the resource module takes the number."""
    return value - (1 << 64) if value >> 63 else value
