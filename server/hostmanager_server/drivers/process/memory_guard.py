"""The watch over the memory of runs with `restart-above`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from time import monotonic

from hostmanager.values import dataclass

from hostmanager_server.core.events import MemoryExceeded, RunKey
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.core.usage import MeasuredRun, Usage
from hostmanager_server.drivers.contract import CallSoon, Poller, PostEvent, Timer
from hostmanager_server.drivers.usage.meter import UsageMeter
from hostmanager_server.linux.thread_names import name_this_thread

INTERVAL = 5.0  # s between two measurements
_REST = 19.0  # pauses, in durations of the last measurement: measuring takes at most a twentieth of the time
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Guarded:
    key: RunKey
    limit: int  # bytes
    run: MeasuredRun


class MemoryGuard:
    """Measures the runs with `restart-above`, on a thread of their own, and posts what exceeds.

    Without such a run there is no timer. For the supervisor thread only.
    """

    def __init__(
        self, poller: Poller, call_soon: CallSoon, post: PostEvent, interval: float = INTERVAL
    ) -> None:
        self._poller = poller
        self._call_soon = call_soon
        self._post = post
        self._interval = interval
        self._meter = UsageMeter()
        self._runs: dict[str, MeasuredRun] = {}  # all live runs
        self._guarded: dict[str, _Guarded] = {}  # those with a limit that have not exceeded it
        self._timer: Timer | None = None
        self._measuring = False

    def watch(self, run: MeasuredRun, spec: InstanceSpec | None) -> None:
        """Watch a run from now on, if its spec has a limit."""
        self._runs[run.instance_id] = run
        self.update(spec)

    def update(self, spec: InstanceSpec | None) -> None:
        """Use the limit of this spec for the live run of its instance, if there is one."""
        if spec is None or (run := self._runs.get(spec.instance_id)) is None:
            return
        if spec.restart_above is None:
            self._guarded.pop(spec.instance_id, None)
            return
        key = RunKey(spec.instance_id, run.number)
        self._guarded[spec.instance_id] = _Guarded(key, spec.restart_above, run)
        self._arm(self._interval)

    def unwatch(self, run: RunKey) -> None:
        """Forget a run."""
        known = self._runs.get(run.instance_id)
        if known is not None and known.number == run.number:
            del self._runs[run.instance_id]
            self._guarded.pop(run.instance_id, None)

    def close(self) -> None:
        """Forget all runs."""
        self._runs.clear()
        self._guarded.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, seconds: float) -> None:
        if self._timer is None and not self._measuring and self._guarded:
            self._timer = self._poller.call_later(seconds, self._measure)

    def _measure(self) -> None:
        self._timer = None
        guarded = dict(self._guarded)
        if not guarded:
            return
        self._measuring = True

        def work() -> None:
            name_this_thread("hm-memory")
            began = monotonic()
            try:
                usages: Mapping[str, Usage] = self._meter.measure([each.run for each in guarded.values()])
            except OSError as error:  # no descriptors; the next measurement may work
                _log.warning("cannot measure the memory of agents with 'restart-above': %s", error)
                usages = {}
            took = monotonic() - began
            self._call_soon(lambda: self._measured(guarded, usages, took))

        threading.Thread(target=work, name="memory", daemon=True).start()

    def _measured(self, guarded: Mapping[str, _Guarded], usages: Mapping[str, Usage], took: float) -> None:
        self._measuring = False
        for instance_id, usage in usages.items():
            measured, now = guarded[instance_id], self._guarded.get(instance_id)
            # A reload may have changed the limit meanwhile, and a restart the run.
            if now is not None and now.key == measured.key and usage.memory > now.limit:
                del self._guarded[instance_id]
                self._post(MemoryExceeded(now.key, usage.memory, now.limit))
        self._arm(max(self._interval, _REST * took))
