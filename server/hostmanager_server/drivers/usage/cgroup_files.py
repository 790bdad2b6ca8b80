"""What the kernel counts for a cgroup, of version 2 or 1."""

from __future__ import annotations

import os
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.drivers.process.cgroup_delegation import Mount, own_directory, parse_mounts
from hostmanager_server.linux.pidfds import read_file

_V1_CONTROLLERS = ("memory", "cpuacct", "pids")
_NO_LIMIT = 2**60  # version 1 says "no limit" by a number near 2**63


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """What a cgroup uses; None where no controller counts. `memory` in bytes, `cpu_time` in s."""

    memory: int | None = None
    memory_limit: int | None = None
    cpu_time: float | None = None
    tasks: int | None = None
    pids: tuple[int, ...] = ()


class CgroupFiles:
    """The mounted hierarchies of cgroups."""

    def __init__(self, mountinfo: str | None = None) -> None:
        """Read the mounts, of this process or from a text like /proc/self/mountinfo."""
        text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        self._v2 = parse_mounts(text)
        self._v1 = _v1_mounts(text)

    def directories(self, pid: int) -> dict[str, str]:
        """Return the directories of a process's cgroups: the key is a controller, or "" for version 2."""
        try:
            membership = read_file(f"/proc/{pid}/cgroup").decode(errors="surrogateescape")
        except OSError:
            return {}
        found: dict[str, str] = {}
        if (unified := own_directory(membership, self._v2)) is not None:
            found[""] = unified
        for line in membership.splitlines():
            _, names, path = line.split(":", 2)
            for controller in names.split(","):
                if controller in self._v1:
                    directory = own_directory(f"0::{path}", [self._v1[controller]])
                    if directory is not None:
                        found[controller] = directory
        return found


def read_group(directories: dict[str, str]) -> GroupUsage:
    """Return what one group uses, whose directories `CgroupFiles.directories` found."""
    unified = directories.get("", "")
    memory, limit = _memory(unified, directories.get("memory", ""))
    for_tasks = directories.get("pids", unified)
    return GroupUsage(
        memory,
        limit,
        _cpu_time(unified, directories.get("cpuacct", "")),
        _number(f"{for_tasks}/pids.current") if for_tasks else None,
        tuple(_pids(for_tasks)),
    )


def _memory(unified: str, v1: str) -> tuple[int | None, int | None]:
    if unified and (used := _number(f"{unified}/memory.current")) is not None:
        inactive = _field(f"{unified}/memory.stat", b"inactive_file")
        limit = _number(f"{unified}/memory.max")
    elif v1 and (used := _number(f"{v1}/memory.usage_in_bytes")) is not None:
        inactive = _field(f"{v1}/memory.stat", b"total_inactive_file")
        limit = _number(f"{v1}/memory.limit_in_bytes")
    else:
        return None, None
    return max(0, used - (inactive or 0)), limit if limit is not None and limit < _NO_LIMIT else None


def _cpu_time(unified: str, v1: str) -> float | None:
    if v1 and (nanoseconds := _number(f"{v1}/cpuacct.usage")) is not None:
        return nanoseconds / 1e9
    microseconds = _field(f"{unified}/cpu.stat", b"usage_usec") if unified else None
    return microseconds / 1e6 if microseconds is not None else None


def _pids(directory: str) -> list[int]:
    """Return the pids in a cgroup and below."""
    found: list[int] = []
    pending = [directory] if directory else []
    while pending:
        folder = pending.pop()
        try:
            found += map(int, read_file(f"{folder}/cgroup.procs").split())
            with os.scandir(folder) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
    return found


def _number(path: str) -> int | None:
    """Return the number in a file; None without one, as for "max"."""
    try:
        return int(read_file(path))
    except (OSError, ValueError):
        return None


def _field(path: str, name: bytes) -> int | None:
    try:
        lines = read_file(path).splitlines()
    except OSError:
        return None
    return next(
        (int(value) for key, _, value in (line.partition(b" ") for line in lines) if key == name), None
    )


def _v1_mounts(mountinfo: str) -> dict[str, Mount]:
    """Return the mounts of version 1 by controller, as `parse_mounts` does for version 2."""
    found: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind != "cgroup":
            continue
        [mount] = parse_mounts(f"{before} - cgroup2 none rw")
        for controller in _V1_CONTROLLERS:
            if controller in options.rpartition(" ")[2].split(","):
                found.setdefault(controller, mount)
    return found
