"""Reconnection policy of streams, and the notifications for their readers.

This module is pure: sync.py and aio.py report events and times, and sleep for the returned pauses.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hostmanager.values import dataclass

from hostmanager_client.errors import HostManagerError, Unreachable


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Pauses and limits for reopening a lost stream.

    The pause doubles from `first` to `longest` s while attempts fail. A random part of up to `jitter` (0 to
    1) shortens each pause, so that the clients of a site do not reconnect at the same time. `give_up_after`:
    the longest outage in s before Unreachable is raised; None for no limit. `at_start`: also retry the first
    connection.
    """

    first: float = 0.1
    longest: float = 10.0
    jitter: float = 0.5
    give_up_after: float | None = None
    at_start: bool = False

    def pause(self, attempt: int, chance: float) -> float:
        """Return the pause in s before attempt 1, 2, ...; `chance` is a random number from 0 to 1."""
        full = min(self.longest, self.first * 2.0 ** min(attempt - 1, 60))
        return full * (1.0 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The stream was lost or did not open; attempt number `attempt` (from 1) follows in `retry_in` s."""

    error: HostManagerError
    attempt: int
    retry_in: float


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The stream is back after `outage` s; unless `complete`, the reader may have missed messages."""

    outage: float
    complete: bool


ConnectionChange = Disconnected | Reconnected
OnConnection = Callable[[ConnectionChange], None]


def ignore(change: ConnectionChange) -> None:
    """Ignore a change of the connection."""


class Link:
    """The state of the connection of one stream; all times in s of a monotonic clock."""

    def __init__(
        self,
        policy: Reconnect,
        on_connection: OnConnection = ignore,
        chance: Callable[[], float] = random.random,
        *,
        reconnects: bool = True,
        opening: Callable[[HostManagerError, float], float | None] | None = None,
    ) -> None:
        """Track a stream that `reconnects`, or opens only once.

        `opening` returns the pause in s before another attempt at the first connection; None to give up.
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
        """Record a message; `complete`: a new connection resumed the stream without a loss."""
        self._ever_connected = True
        if self._lost_at is not None:
            self._notify(Reconnected(now - self._lost_at, complete))
        self._lost_at, self._attempt = None, 0

    def lost(self, error: HostManagerError, now: float) -> float:
        """Record the end of the stream; return the pause in s before the next attempt, or raise `error`."""
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
