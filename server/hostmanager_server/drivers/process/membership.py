"""Evidence that a process belongs to a run: marker, mark, user id and descent.

The kernel keeps descent, session and cgroup: no process can be put into these against its will. In
contrast, a descriptor can be passed to any process, and an environment can be set for any program that is
started, a setuid program included. Both count only for processes with the agent's user id. A descriptor
counts only together with the run's mark: a number in a resource limit, which children inherit, an exec
preserves, and no process can pass to another.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Collection

from hostmanager_server.drivers.exec.command import RUN_MARKER, CommandError, user_id
from hostmanager_server.linux.pidfds import read_file, read_stat
from hostmanager_server.linux.spawning import ResourceLimit

# RLIMIT_LOCKS of asm-generic/resource.h. No kernel since Linux 2.4.25 enforces it, see getrlimit(2).
_LIMIT = 10
LIMIT_NAME = "locks"  # the name in a site config; a run with this limit in its spec gets no mark
_MARKS = (1 << 32, 1 << 62)  # from the first, below the second; RLIM_INFINITY is above both

_PREFIX = f"{RUN_MARKER}=".encode()
_REAL_UID = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
_LIMIT_LINE = re.compile(rb"^Max file locks\s+\S+\s+(\d+)", re.MULTILINE)
_NAMESPACES = ("mnt", "pid", "user")
_GENERATIONS = 32  # the longest chain of parents that counts


def new_mark() -> int | None:
    """Return a random mark for a child; None where the daemon's limit is too low for a mark.

    The mark lies below the limit of the daemon, which may itself be the marked agent of another daemon.
    """
    least, bound = _MARKS
    _, hard = resource.getrlimit(_LIMIT)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    # The module `secrets` would load OpenSSL.
    return least + int.from_bytes(os.urandom(16)) % (bound - least) if bound > least else None


def as_limit(mark: int) -> ResourceLimit:
    """Return the resource limit that carries a mark."""
    return ResourceLimit(_LIMIT, mark, mark)


def put_mark(pid: int) -> int | None:
    """Give a child a random mark before it runs, and return the mark, or None without one."""
    mark = new_mark()
    if mark is None:
        return None
    try:
        resource.prlimit(pid, _LIMIT, (mark, mark))
    except (OSError, ValueError):
        return None
    return mark


def has_mark(pid: int, mark: int | None) -> bool:
    """Return whether a process has the mark of a run."""
    return mark is not None and hard_limit(pid) == mark


def hard_limit(pid: int | str) -> int | None:
    """Return the resource limit of a process that holds marks; None when the process is gone or hidden."""
    try:
        return resource.prlimit(int(pid), _LIMIT)[1]
    except PermissionError:  # root without CAP_SYS_RESOURCE; every user may read the file
        return _limit_in_proc(pid)
    except OSError:
        return None


def agent_uids(noted: int | None, user: str) -> set[int]:
    """Return the user ids of an agent, from its record or its user's name.

    The set is empty for an older record with a user that no longer exists.
    """
    try:
        return {user_id(user) if noted is None else noted}
    except CommandError:
        return set()


def real_uid(pid: int | str) -> int | None:
    """Return the real user id of a process; None when the process is gone.

    A setuid program has another effective user id, and belongs to the user who started it. Raises OSError
    (no descriptors).
    """
    try:
        found = _REAL_UID.search(read_file(f"/proc/{pid}/status"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return int(found[1]) if found else None


def marker_in(environ: bytes) -> bytes:
    """Return the run marker in the text of `/proc/PID/environ`; empty without one."""
    if environ.startswith(_PREFIX):
        at = 0
    else:
        at = environ.find(b"\0" + _PREFIX) + 1
        if not at:
            return b""
    return environ[at + len(_PREFIX) :].partition(b"\0")[0]


def has_mark_or_marker(pid: int, token: bytes, mark: int | None, uids: Collection[int]) -> bool:
    """Return whether a process has one of these user ids and a mark or marker."""
    if real_uid(pid) not in uids:
        return False
    if has_mark(pid, mark):
        return True
    try:
        return marker_in(read_file(f"/proc/{pid}/environ")) == token
    except OSError:
        return False


def descends(pid: int, ancestor: int) -> bool:
    """Return whether a process descends from `ancestor`, by its living parents."""
    for _ in range(_GENERATIONS):
        stat = read_stat(pid)
        if stat is None or stat.parent <= 1:
            return False
        if stat.parent == ancestor:
            return True
        pid = stat.parent
    return False


def shares_namespaces(pid: int) -> bool:
    """Return whether a process shares this one's mount, pid and user namespaces.

    Returns False also for a process that is gone, or with namespaces that this user may not see.
    """
    try:
        return all(
            os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
            for name in _NAMESPACES
        )
    except OSError:
        return False


def _limit_in_proc(pid: int | str) -> int | None:
    try:
        found = _LIMIT_LINE.search(read_file(f"/proc/{pid}/limits"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return int(found[1]) if found else None
