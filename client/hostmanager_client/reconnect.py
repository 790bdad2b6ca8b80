"""When a stream that was lost is opened again, and what its reader is told meanwhile.

Pure: the shells (sync.py, aio.py) tell what happened and when, and do what this says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hostmanager_client.errors import HostManagerError, Unreachable


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a lost stream is opened again.

    `first` and `longest` bound the pause in s; it doubles from one to the other while attempts fail, and
    each is cut by a random part of up to `jitter` (0 to 1), so that a site's clients do not return at once.
    `give_up_after`: the longest outage in s before Unreachable is raised; None: never. `at_start`:
    whether to keep trying, too, when not even the first connection succeeds.
    """

    first: float = 0.1
    longest: float = 10.0
    jitter: float = 0.5
    give_up_after: float | None = None
    at_start: bool = False

    def pause(self, attempt: int, chance: float) -> float:
        """The pause in s before attempt 1, 2, ...; `chance` is random, 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return full * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream was lost, or could not be opened. `attempt` counts from 1; it is made in `retry_in` s."""

    error: HostManagerError
    attempt: int
    retry_in: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The stream is back after `outage` s. When not `complete`, something may have been missed."""

    outage: float
    complete: bool


ConnectionChange = Disconnected | Reconnected
OnConnection = Callable[[ConnectionChange], None]


def ignore(change: ConnectionChange) -> None:
    """The listener of those who do not want to know."""


class Link:
    """The connection of one stream, over all of its lives. Times are of a monotonic clock, in s."""

    def __init__(
        self,
        policy: Reconnect,
        on_connection: OnConnection = ignore,
        chance: Callable[[], float] = random.random,
        *,
        reconnects: bool = True,
        opening: Callable[[HostManagerError, float], float | None] | None = None,
    ) -> None:
        """Link a stream that `reconnects` or is opened only once.

        `opening` gives the pause in s before another attempt to open it while it was never open; None for no
        more attempts.
        """
        self._reconnects = reconnects
        self._opening = opening
        self._policy = policy
        self._notify = on_connection
        self._chance = chance
        self._ever_connected = False
        self._attempt = 0
        self._lost_at: float | None = None

    def received(self, now: float, *, complete: bool) -> None:
        """A message came. `complete`: the stream resumes without a loss, should this be a new one."""
        self._ever_connected = True
        if self._lost_at is not None:
            self._notify(Reconnected(now - self._lost_at, complete))
        self._lost_at, self._attempt = None, 0

    def lost(self, error: HostManagerError, now: float) -> float:
        """The stream ended: the pause in s before it is to be opened again. Raises `error` when not to."""
        if not self._ever_connected and not (self._reconnects and self._policy.at_start):
            pause = None if self._opening is None else self._opening(error, now)
            if pause is None:
                raise error
            return pause
        if not self._reconnects or not isinstance(error, Unreachable):
            raise error
        if self._lost_at is None:
            self._lost_at = now
        limit = self._policy.give_up_after
        if limit is not None and now - self._lost_at >= limit:
            raise error
        self._attempt += 1
        pause = self._policy.pause(self._attempt, self._chance())
        if limit is not None:
            pause = min(pause, max(0.0, self._lost_at + limit - now))
        self._notify(Disconnected(error, self._attempt, pause))
        return pause
