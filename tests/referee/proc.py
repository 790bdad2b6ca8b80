"""Processes as the kernel shows them in /proc, independent of the daemon's code."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Environment variables of every agent: the folder of the site and the instance id.
SITE_MARKER = "REFEREE_SITE"
INSTANCE_MARKER = "REFEREE_INSTANCE"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, order=True)
class ProcessIdentity:
    """The identity of one process of this boot: pid, and start time in clock ticks."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid}.{self.start}"

    @staticmethod
    def parse(text: str) -> ProcessIdentity:
        """Return the identity in a text `PID.START`."""
        pid, _, start = text.partition(".")
        return ProcessIdentity(int(pid), int(start))

    @property
    def started(self) -> float:
        """Start time in s since boot, rounded down to a tick."""
        return self.start / TICKS


def now() -> float:
    """Return the time in s since boot, the clock of the journals."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def since_boot(wall: float) -> float:
    """Return a wall clock time (s since 1970) in s since boot."""
    return wall - (time.time() - now())


def _stat(pid: int | str) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def name_of(pid: int) -> ProcessIdentity | None:
    """Return the present process with this pid, or None."""
    fields = _stat(pid)
    return None if fields is None else ProcessIdentity(pid, int(fields[19]))


def is_alive(name: ProcessIdentity) -> bool:
    """Return whether the process lives; a zombie does not."""
    fields = _stat(name.pid)
    return fields is not None and int(fields[19]) == name.start and fields[0] not in "ZX"


def marked(site: Path) -> dict[str, list[int]]:
    """Return the pids of live processes with this site in their environment, by instance."""
    needle = f"{SITE_MARKER}={site}".encode()
    prefix = f"{INSTANCE_MARKER}=".encode()
    found: dict[str, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if needle not in environ:
            continue
        fields = _stat(entry)
        if fields is not None and fields[0] not in "ZX":
            instance = next((e.removeprefix(prefix).decode() for e in environ if e.startswith(prefix)), "")
            found.setdefault(instance, []).append(int(entry))
    return found


def with_argument(word: str) -> list[int]:
    """Return the pids of live processes with this argument."""
    needle = b"\0" + os.fsencode(word) + b"\0"
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if needle in Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(int(entry))
    return found


def zombies_of(parent: int) -> list[int]:
    """Return the pids of ended children that `parent` has not reaped."""
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat(entry) if entry.isdigit() else None
        if fields is not None and fields[0] == "Z" and int(fields[1]) == parent:
            found.append(int(entry))
    return found


def descriptors(pid: int) -> Counter[str]:
    """Return the number of open descriptors by kind.

    A kind is `socket`, `pidfd` and so on, or the path of a file with digits replaced by `#`.
    """
    kinds: Counter[str] = Counter()
    folder = f"/proc/{pid}/fd"
    for entry in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{entry}")
        except OSError:
            continue
        kind = re.sub(r"^(?:anon_inode:)?\[?([a-z_]+)\]?(?::\[\d+\])?$", r"\1", target)
        kinds[re.sub(r"\d+", "#", kind)] += 1
    return kinds


def threads(pid: int) -> Counter[str]:
    """Return the number of threads by name."""
    names: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            names[(task / "comm").read_text().strip()] += 1
        except OSError:
            continue
    return names


def resident(pid: int) -> int:
    """Return the resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def switches(pid: int) -> int:
    """Return the voluntary context switches of all live threads, which count wake-ups."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "status").read_text()
        except OSError:
            continue
        total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    return total


def cpu_seconds(pid: int) -> float:
    """Return the used CPU time in s."""
    fields = _stat(pid)
    return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / TICKS
