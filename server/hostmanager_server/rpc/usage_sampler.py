"""The measurements that all readers of usage share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from hostmanager.values import dataclass

from hostmanager_server.core.usage import MeasuredRun, Usage, measured_run
from hostmanager_server.linux.thread_names import name_this_thread
from hostmanager_server.rpc.ports import UsageSource
from hostmanager_server.state.store import Store

# Pauses between measurements, in durations of the last one: measuring takes at most a tenth of the time.
REST = 9.0
FEW = 16  # runs
SECOND = 0.5  # s until the second measurement of a loop, at most
LONGEST = 60.0  # s, the longest interval


@dataclass(frozen=True, slots=True)
class UsageSample:
    """One measurement, at `at` in s of the monotonic clock."""

    at: float
    usages: Mapping[str, Usage]


def cpu_in_use(before: UsageSample | None, after: UsageSample, instance_id: str) -> float | None:
    """Return the cores that a run used between two measurements; None without an earlier one of the run."""
    new = after.usages[instance_id]
    old = before.usages.get(instance_id) if before is not None else None
    if before is None or old is None or old.number != new.number or after.at <= before.at:
        return None
    # The time of processes that ended without a parent of the run gets lost.
    return max(0.0, new.cpu_time - old.cpu_time) / (after.at - before.at)


class _Turns:
    """Measurements one after another, with pauses."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.rest_until = 0.0


class UsageSampler:
    """Measures while somebody reads: one loop for all streams, and calls one after another.

    Belongs to the event loop; the measurements run on a thread of their own, which ends with the last reader.
    """

    def __init__(self, store: Store, source: UsageSource) -> None:
        """Measure the runs in the newest snapshot of `store` with `source`."""
        self._store = store
        self._source = source
        self._executor: ThreadPoolExecutor | None = None
        # Measurements of few runs do not wait for the pauses after others.
        self._turns = {few: _Turns() for few in (True, False)}
        self._calls = 0
        self._intervals: list[float] = []  # of the streams
        self._loop: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()  # a stream has joined, perhaps with a shorter interval
        self._published = asyncio.Event()
        self._failure: Exception | None = None  # why the loop ended
        self.before: UsageSample | None = None  # the last two measurements of the loop
        self.newest: UsageSample | None = None

    async def measure(self, runs: Sequence[MeasuredRun]) -> UsageSample:
        """Measure runs, after a pause that keeps the cost low."""
        self._calls += 1
        turns = self._turns[len(runs) <= FEW]
        try:
            async with turns.lock:
                await asyncio.sleep(max(0.0, turns.rest_until - time.monotonic()))
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(
                        1, initializer=name_this_thread, initargs=("hm-usage",)
                    )
                began = time.monotonic()
                work = asyncio.get_running_loop().run_in_executor(self._executor, self._source.measure, runs)
                usages = await work
                at = time.monotonic()
                turns.rest_until = at + REST * (at - began)
                return UsageSample((began + at) / 2, usages)
        finally:
            self._calls -= 1
            self._end_thread()

    def _end_thread(self) -> None:
        if self._executor is not None and not self._calls and not self._intervals:
            self._executor.shutdown(wait=False)
            self._executor = None

    def runs(self, instance_ids: Sequence[str] | None = None) -> list[MeasuredRun]:
        """Return the runs of the named instances, or of all."""
        instances = self._store.snapshot().instances
        ids = instances if instance_ids is None else [i for i in instance_ids if i in instances]
        found = (measured_run(instances[instance_id].instance) for instance_id in ids)
        return [run for run in found if run is not None]

    @contextmanager
    def reader(self, interval: float) -> Iterator[None]:
        """Measure all runs at this interval, or at a shorter one of another reader, during the block."""
        self._intervals.append(interval)
        if self._loop is None:
            self._loop = asyncio.ensure_future(self._measure_all())
        self._joined.set()
        try:
            yield
        finally:
            self._intervals.remove(interval)
            if not self._intervals:
                self._loop.cancel()
                self._loop = self._failure = self.before = self.newest = None
                self._end_thread()

    async def _measure_all(self) -> None:
        try:
            while True:
                began = time.monotonic()
                sample = await self.measure(self.runs())
                self.before, self.newest = self.newest, sample
                self._publish()
                await self._pause(began)
        except Exception as error:  # the streams end with it
            self._failure = error
            self._publish()

    async def _pause(self, began: float) -> None:
        """Wait for the interval from `began` on, which a new reader may shorten."""
        while True:
            # The second measurement brings the first numbers of the CPU.
            interval = min(*self._intervals, SECOND if self.before is None else LONGEST)
            left = began + interval - time.monotonic()
            if left <= 0:
                return
            self._joined.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._joined.wait(), left)

    def _publish(self) -> None:
        self._published.set()
        self._published = asyncio.Event()

    async def next(self, since: float) -> UsageSample:
        """Return the newest measurement once it is later than `since`, in s of the monotonic clock."""
        while self.newest is None or self.newest.at <= since:
            if self._failure is not None:
                raise self._failure
            await self._published.wait()
        return self.newest
