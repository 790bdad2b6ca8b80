"""Repetition of calls that failed for a reason that passes.

Pure: the shells (sync.py, aio.py) report failures and times, and wait as long as this says.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hostmanager_client.errors import DeadlineExceeded, HostManagerError, Unreachable

FIRST_PAUSE = 0.05  # s; doubles up to the longest
LONGEST_PAUSE = 0.5  # s


class Attempts:
    """Decide whether one failed call is made again, and when. Times are of a monotonic clock, in s.

    A call that changes something (`repeatable` is false) is repeated only if its request was never sent.
    """

    def __init__(
        self, deadline: float, *, repeatable: bool, chance: Callable[[], float] = random.random
    ) -> None:
        self._deadline = deadline
        self._repeatable = repeatable
        self._chance = chance
        self._count = 0
        self._began: float | None = None  # the failures
        self._last: HostManagerError | None = None

    def left(self, now: float) -> float:
        """Time in s that the next attempt may take."""
        return max(0.001, self._deadline - now)

    def pause(self, error: HostManagerError, now: float) -> float | None:
        """Pause in s before the next attempt; None if there is none, and `final` tells what to raise."""
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
        """Error to raise after the last attempt, which ended with `error`."""
        if isinstance(error, DeadlineExceeded) and self._repeatable and self._last is not None:
            return self._last  # why there was so little time
        return error
