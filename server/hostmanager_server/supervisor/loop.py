"""The one wait of the supervisor thread: descriptors, an inbox, deadlines."""

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
    """This moment. CLOCK_BOOTTIME goes on while the machine is suspended, and never jumps."""
    return Instant(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class _Timer:
    __slots__ = ("callback", "deadline")

    def __init__(self, deadline: float, callback: Callback) -> None:
        self.deadline = deadline
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """An epoll loop that sleeps without time-out when no deadline is set. Implements drivers.base.Poller.

    Only `call_soon` and `stop` may be called from other threads.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, Callback] = {}
        self._inbox: deque[Callback] = deque()
        self._awake = threading.Event()  # set: the loop will look into the inbox without being woken
        self._timers: list[tuple[float, int, _Timer]] = []
        self._timer_count = itertools.count()
        self._stopping = False

    # --- from any thread

    def call_soon(self, callback: Callback) -> None:
        """Run `callback` on the loop's thread, in order of the calls."""
        self._inbox.append(callback)
        if not self._awake.is_set():
            self._awake.set()
            os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Leave `run` after the callbacks posted before."""
        self.call_soon(self._stop)

    def _stop(self) -> None:
        self._stopping = True

    # --- Poller, on the loop's thread

    def watch(self, fd: int, callback: Callback) -> None:
        self._watched[fd] = callback
        self._epoll.register(fd, _WAITABLE)

    def unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callback) -> _Timer:
        timer = _Timer(self.now().mono + seconds, callback)
        heapq.heappush(self._timers, (timer.deadline, next(self._timer_count), timer))
        return timer

    def now(self) -> Instant:
        return now()

    # --- the loop

    def run(self, step: Callable[[], float | None]) -> None:
        """Wait and call back until stopped. After each round `step` does the engine's work and returns the
        moment (mono, s) at which it wants to be called again, or None."""
        deadline = step()
        while not self._stopping:
            for fd, _ in self._epoll.poll(self._timeout(deadline)):
                if fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                elif (callback := self._watched.get(fd)) is not None:
                    self._call(callback)
            self._awake.clear()  # before looking: whatever is posted after this wakes the next wait
            for _ in range(len(self._inbox)):
                self._call(self._inbox.popleft())
            self._fire_timers()
            deadline = step()

    def _timeout(self, deadline: float | None) -> float | None:
        if self._inbox:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        return None if deadline is None else max(0.0, deadline - self.now().mono)

    def _fire_timers(self) -> None:
        if not self._timers:
            return
        moment = self.now().mono
        while self._timers and self._timers[0][0] <= moment:
            _, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self._call(timer.callback)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:  # a bug in one callback must not end the supervision of everything else
            log.exception("a callback of the supervisor failed; going on")

    def close(self) -> None:
        self._awake.set()  # whoever still posts must not write to a descriptor that may be another's by then
        self._epoll.close()
        os.close(self._wake_fd)
