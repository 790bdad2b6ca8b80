"""What the daemon itself uses, as the kernel counts it, over time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.referee import proc

MIB = 2**20
PROBES = "probes"  # the name of that thread
POOL = min(32, (os.cpu_count() or 1) + 4)  # concurrent.futures.ThreadPoolExecutor, as asyncio makes it


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `at` is in s since boot, `resident` in bytes, `cpu` in s; `switches` counts how often its
    living threads were woken."""

    at: float
    descriptors: int
    threads: int
    resident: int
    zombies: int
    switches: int
    cpu: float


def take(pid: int) -> Sample:
    return Sample(
        at=proc.now(),
        descriptors=proc.descriptors(pid).total(),
        threads=proc.threads(pid).total(),
        resident=proc.resident(pid),
        zombies=len(proc.zombies_of(pid)),
        switches=proc.switches(pid),
        cpu=proc.cpu_seconds(pid),
    )


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a daemon at rest holds: descriptors by kind, threads by name. `name` is that of the process."""

    name: str
    descriptors: Counter[str]
    threads: Counter[str]

    def beyond(self, baseline: Holdings) -> dict[str, int]:
        """What it has more of than at the baseline, beside what is made when first needed and stays: the
        workers of asyncio's pool, which bear the name of the process, and the thread of the probes, with an
        eventpoll."""
        threads = self.threads - baseline.threads
        descriptors = self.descriptors - baseline.descriptors
        if threads[self.name] <= POOL:
            del threads[self.name]
        if not baseline.threads[PROBES] and threads[PROBES] == 1:
            del threads[PROBES]
            descriptors -= Counter(eventpoll=1)
        return dict(descriptors + threads)


def holdings(pid: int) -> Holdings:
    return Holdings(Path(f"/proc/{pid}/comm").read_text().strip(), proc.descriptors(pid), proc.threads(pid))


def growth(samples: Sequence[Sample]) -> int:
    """Bytes by which resident memory grew within the second half: the median of the last quarter less that
    of the quarter before. Single peaks, and what only warms up, do not count."""
    quarter = len(samples) // 4
    if quarter == 0:
        return 0
    third = samples[2 * quarter : 3 * quarter]
    return int(median(s.resident for s in samples[3 * quarter :]) - median(s.resident for s in third))
