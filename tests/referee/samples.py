"""Resource usage of the daemon over time, as the kernel counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.referee import proc

MIB = 2**20
PROBES = "probes"  # name of the thread that runs readiness probes
POOL = min(32, (os.cpu_count() or 1) + 4)  # concurrent.futures.ThreadPoolExecutor, as asyncio makes it


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. `at` is in s since boot, `resident` in bytes, `cpu` in s.

    `switches` counts the wake-ups of the live threads.
    """

    at: float
    descriptors: int
    threads: int
    resident: int
    zombies: int
    switches: int
    cpu: float


def take(pid: int) -> Sample:
    """Return a sample of a process."""
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
class Resources:
    """The resources of a daemon at rest: descriptors by kind, threads by name.

    `name` is the name of the process.
    """

    name: str
    descriptors: Counter[str]
    threads: Counter[str]

    def beyond(self, baseline: Resources) -> dict[str, int]:
        """Return the resources beyond the baseline, except those created at first use and then kept.

        Those are the workers of asyncio's pool, which have the name of the process, and the probe thread with
        an eventpoll.
        """
        threads = self.threads - baseline.threads
        descriptors = self.descriptors - baseline.descriptors
        if threads[self.name] <= POOL:
            del threads[self.name]
        if not baseline.threads[PROBES] and threads[PROBES] == 1:
            del threads[PROBES]
            descriptors -= Counter(eventpoll=1)
        return dict(descriptors + threads)


def held_resources(pid: int) -> Resources:
    """Return the resources of a process."""
    return Resources(Path(f"/proc/{pid}/comm").read_text().strip(), proc.descriptors(pid), proc.threads(pid))


def growth(samples: Sequence[Sample]) -> int:
    """Return the growth of resident memory over the second half, in bytes.

    The growth is the median of the last quarter minus the median of the third quarter, so single peaks and
    warm-up do not count.
    """
    quarter = len(samples) // 4
    if quarter == 0:
        return 0
    third = samples[2 * quarter : 3 * quarter]
    return int(median(s.resident for s in samples[3 * quarter :]) - median(s.resident for s in third))
