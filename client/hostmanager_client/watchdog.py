"""A watchdog that cancels silent blocking streams.

A blocking read of gRPC has no timeout. A stream without a limit of silence needs no watchdog, and gets no
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_NEVER = float("inf")


class Watchdog:
    """Calls `cancel` once, from its own thread, after `silence` s in the armed state or at `deadline`."""

    def __init__(self, cancel: Callable[[], object], silence: float | None, deadline: float | None) -> None:
        self._cancel = cancel
        self._silence = silence
        self._deadline = deadline
        self._condition = threading.Condition()
        self._due = _NEVER
        self._wakes_at = _NEVER
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.fired = False

    def arm(self) -> None:
        """Start to count the silence, before a read."""
        if self._silence is None and self._deadline is None:
            return
        due = _NEVER if self._silence is None else time.monotonic() + self._silence
        with self._condition:
            self._due = due if self._deadline is None else min(due, self._deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="hostmanager-watchdog", daemon=True)
                self._thread.start()
            elif self._due < self._wakes_at:
                self._condition.notify()

    def disarm(self) -> None:
        """Stop to count the silence, after a read; the thread checks the time when it wakes up."""
        with self._condition:
            self._due = _NEVER

    def stop(self) -> None:
        """End the thread; a concurrent `cancel` does no harm, as the stream has ended."""
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def _watch(self) -> None:
        with self._condition:
            while not self._stopped and time.monotonic() < self._due:
                self._wakes_at = self._due
                self._condition.wait(None if self._due == _NEVER else self._due - time.monotonic())
            if self._stopped:
                return
            self.fired = True
        self._cancel()
