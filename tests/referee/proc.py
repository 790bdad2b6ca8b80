"""What the kernel says about processes: the referee's own eyes, apart from those of the daemon."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# Set in the environment of every agent: the folder of the site and the instance.
SITE_MARKER = "REFEREE_SITE"
INSTANCE_MARKER = "REFEREE_INSTANCE"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """One process of this boot: its pid, and its start time in clock ticks."""

    pid: int
    start: int

    def __str__(self) -> str:
        return f"{self.pid}.{self.start}"

    @staticmethod
    def parse(text: str) -> Name:
        pid, _, start = text.partition(".")
        return Name(int(pid), int(start))

    @property
    def started(self) -> float:
        """When the kernel made it, s since boot, rounded down to a tick."""
        return self.start / TICKS


def now() -> float:
    """s since boot: the clock of the journals."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def since_boot(wall: float) -> float:
    """A moment of the wall clock (s since 1970) on the clock of the journals."""
    return wall - (time.time() - now())


def _stat(pid: int | str) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def name_of(pid: int) -> Name | None:
    """The process that has this pid now; None when there is none."""
    fields = _stat(pid)
    return None if fields is None else Name(pid, int(fields[19]))


def is_alive(name: Name) -> bool:
    """Whether it lives: a zombie does not."""
    fields = _stat(name.pid)
    return fields is not None and int(fields[19]) == name.start and fields[0] not in "ZX"


def marked(site: Path) -> dict[str, list[int]]:
    """Every living process whose environment names this site, by instance."""
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
    """Living processes that have this among their arguments."""
    needle = b"\0" + os.fsencode(word) + b"\0"
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if needle in Path(f"/proc/{entry}/cmdline").read_bytes():
                    found.append(int(entry))
    return found


def zombies_of(parent: int) -> list[int]:
    """Ended children that it has not reaped."""
    found = []
    for entry in os.listdir("/proc"):
        fields = _stat(entry) if entry.isdigit() else None
        if fields is not None and fields[0] == "Z" and int(fields[1]) == parent:
            found.append(int(entry))
    return found


def descriptors(pid: int) -> Counter[str]:
    """How many descriptors it has of each kind: `socket`, `pidfd`, a file's path with its
    digits left out, and so on."""
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
    """How many threads it has of each name."""
    names: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            names[(task / "comm").read_text().strip()] += 1
        except OSError:
            continue
    return names


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def switches(pid: int) -> int:
    """Voluntary context switches of all its threads that live: how often it was woken."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "status").read_text()
        except OSError:
            continue
        total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    return total


def cpu_seconds(pid: int) -> float:
    """CPU time it has used, in s."""
    fields = _stat(pid)
    return 0.0 if fields is None else (int(fields[11]) + int(fields[12])) / TICKS
