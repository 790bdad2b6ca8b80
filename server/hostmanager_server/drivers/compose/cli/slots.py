"""Bounds on simultaneous calls, in which calls that hang hold up no others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

# How long, in s, a call counts as young. A program of compose needs a core in its first second; a call that
# lasts longer waits for something (an engine, a registry), and costs next to nothing.
YOUNG_TIME = 5.0
# How long, in s, a repeated attempt lets first attempts go before: a start of all services must not take
# longer because some of them fail again and again.
YIELD_TIME = 10.0


class Slots:
    """A bound on the young calls, and a much larger bound on all calls. Thread-safe."""

    def __init__(self, young: int, most: int, *, young_time: float = YOUNG_TIME) -> None:
        self._young = young
        self._most = most
        self._young_time = young_time
        self._changed = threading.Condition()
        self._begun: dict[object, float] = {}  # the running calls, and when each began
        self._waiting = 0  # first attempts without a slot

    @contextlib.contextmanager
    def slot(self, abandoned: Callable[[], bool], *, repeated: bool = False) -> Iterator[bool]:
        """Wait for a slot, and hold it for the block.

        A `repeated` attempt waits until no other call waits or is young, at most YIELD_TIME. Yields False,
        without a slot, as soon as `abandoned` is true; `wake` makes the wait look.
        """
        call = object()
        until = time.monotonic() + YIELD_TIME if repeated else 0.0
        with self._changed:
            self._waiting += not repeated
            while not abandoned() and (wait := self._wait(until)) > 0.0:
                self._changed.wait(wait if wait < threading.TIMEOUT_MAX else None)
            self._waiting -= not repeated
            if given := not abandoned():
                self._begun[call] = time.monotonic()
        try:
            yield given
        finally:
            with self._changed:
                self._begun.pop(call, None)
                self._changed.notify_all()

    def wake(self) -> None:
        """Make all waits ask again whether they are abandoned."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, yields_until: float) -> float:
        """Return how long, in s, to wait before the next look; 0: a slot is free."""
        if len(self._begun) >= self._most:
            return threading.TIMEOUT_MAX
        now = time.monotonic()
        young = sorted(at for at in self._begun.values() if now - at < self._young_time)
        if (young or self._waiting) and now < yields_until:
            return yields_until - now if not young else min(yields_until, young[-1] + self._young_time) - now
        if len(young) < self._young:
            return 0.0
        return max(0.001, young[-self._young] + self._young_time - now)
