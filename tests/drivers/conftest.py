"""Fixtures for the driver tests: a small real poller, and harnesses over the real and the fake driver."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hostmanager_server.core.events import Instant
from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.base import Timer

DEADLINE = 30.0  # s; for conditions that hold at once on an idle machine


class _Call:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class EpollPoller:
    """A Poller on epoll, turned by the test."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._calls: list[tuple[float, int, _Call]] = []
        self._order = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.get_ident()

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        call = _Call(callback)
        heapq.heappush(self._calls, (time.monotonic() + seconds, next(self._order), call))
        return call

    def now(self) -> Instant:
        return Instant(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run on the thread that turns the poller; to be called from any thread."""
        self._soon.append(callback)
        os.eventfd_write(self._wake, 1)

    def turn(self, seconds: float) -> None:
        """One wait of at most this long, with what comes of it."""
        if self._calls:
            seconds = max(0.0, min(seconds, self._calls[0][0] - time.monotonic()))
        for fd, _ in self._epoll.poll(seconds):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                while self._soon:
                    self._soon.popleft()()
            elif fd in self._callbacks:
                self._callbacks[fd]()
        while self._calls and self._calls[0][0] <= time.monotonic():
            call = heapq.heappop(self._calls)[2]
            if call.callback is not None:
                call.callback()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Turn until the condition holds; it is looked at every 2 ms, as some of them are seen in /proc only."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come to hold"
            self.turn(0.002)

    @property
    def watched(self) -> int:
        return len(self._callbacks)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)


class PlainOutput:
    """Output without rotation: one file per instance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.directory / f"{instance_id}.log", flags, 0o644)
