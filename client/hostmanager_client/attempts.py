"""Retries of unary calls after temporary failures.

This module is pure: sync.py and aio.py report failures and times, and sleep for the returned pauses.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hostmanager_client.errors import DeadlineExceeded, HostManagerError, Unreachable

FIRST_PAUSE = 0.05  # s; doubles up to the longest
LONGEST_PAUSE = 0.5  # s


class Attempts:
    """The retry policy of one call; all times in s of a monotonic clock.

    A call that changes something (`repeatable` is false) is repeated only if its request was never sent.
    """

    def __init__(
        self, deadline: float, *, repeatable: bool, chance: Callable[[], float] = random.random
    ) -> None:
        self._deadline = deadline
        self._repeatable = repeatable
        self._chance = chance
        self._count = 0
        self._began: float | None = None  # time of the first failure
        self._last: HostManagerError | None = None

    def time_left(self, now: float) -> float:
        """Return the time limit of the next attempt, in s."""
        return max(0.001, self._deadline - now)

    def pause(self, error: HostManagerError, now: float) -> float | None:
        """Return the pause before the next attempt, in s; None to give up and raise `final`."""
        if not isinstance(error, Unreachable) or (error.sent and not self._repeatable):
            return None
        self._last = error
        if self._began is None:
            self._began = now
        full = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._count, 60))
        self._count += 1
        pause = full * (1.0 - 0.5 * self._chance())
        return pause if now + pause < min(self._deadline, self._began + error.patience) else None

    def final(self, error: HostManagerError) -> HostManagerError:
        """Return the error to raise after the last attempt, which ended with `error`."""
        if isinstance(error, DeadlineExceeded) and self._repeatable and self._last is not None:
            return self._last  # the cause of the short time left
        return error
