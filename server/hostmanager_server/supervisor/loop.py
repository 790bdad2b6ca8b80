"""The event loop of the supervisor thread: descriptors, callbacks and timers."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from hostmanager_server.core.events import Instant

log = logging.getLogger(__name__)

_WAITABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[], None]


def now() -> Instant:
    """Return the present time.

    CLOCK_BOOTTIME counts the time of a suspended machine, and never jumps.
    """
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class _Timer:
    __slots__ = ("callback", "deadline")

    def __init__(self, deadline: float, callback: Callback) -> None:
        self.deadline = deadline
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """An epoll loop that sleeps without a time-out while no deadline is set.

    Implements drivers.contract.Poller. Other threads may call only `call_soon` and `stop`.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, Callback] = {}
        self._callbacks: deque[Callback] = deque()
        self._awake = threading.Event()  # set: the loop will run the callbacks without a wake-up
        self._timers: list[tuple[float, int, _Timer]] = []
        self._timer_count = itertools.count()
        self._stopping = False

    # --- any thread

    def call_soon(self, callback: Callback) -> None:
        """Run `callback` on the thread of the loop, in the order of the calls."""
        self._callbacks.append(callback)
        if not self._awake.is_set():
            self._awake.set()
            os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Leave `run` after all callbacks posted before."""
        self.call_soon(self._stop)

    def _stop(self) -> None:
        self._stopping = True

    # --- Poller, on the thread of the loop

    def watch(self, fd: int, callback: Callback) -> None:
        """See `Poller.watch`."""
        self._watched[fd] = callback
        self._epoll.register(fd, _WAITABLE)

    def unwatch(self, fd: int) -> None:
        """See `Poller.unwatch`."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callback) -> _Timer:
        """See `Poller.call_later`."""
        timer = _Timer(self.now().mono + seconds, callback)
        heapq.heappush(self._timers, (timer.deadline, next(self._timer_count), timer))
        return timer

    def now(self) -> Instant:
        """See `Poller.now`."""
        return now()

    # --- the loop

    def run(self, step: Callable[[], float | None]) -> None:
        """Wait and run callbacks until stopped.

        After each round `step` does the supervisor's work. `step` returns the time (mono, s) of its next call
        without an event, or None.
        """
        deadline = step()
        while not self._stopping:
            for fd, _ in self._epoll.poll(self._timeout(deadline)):
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                elif (callback := self._watched.get(fd)) is not None:
                    self._call(callback)
            self._awake.clear()  # first: a callback posted from here on wakes the next wait
            for _ in range(len(self._callbacks)):
                self._call(self._callbacks.popleft())
            self._fire_timers()
            deadline = step()

    def _timeout(self, deadline: float | None) -> float | None:
        if self._callbacks:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        return None if deadline is None else max(0.0, deadline - self.now().mono)

    def _fire_timers(self) -> None:
        if not self._timers:
            return
        now = self.now().mono
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:  # a bug in one callback must not end the supervision of all instances
            log.exception("a callback of the supervisor failed; the supervisor continues")

    def close(self) -> None:
        """Close the descriptors; a later `call_soon` does nothing."""
        self._awake.set()  # late posts must not write to a descriptor number that was reused
        self._epoll.close()
        os.close(self._wake_fd)
