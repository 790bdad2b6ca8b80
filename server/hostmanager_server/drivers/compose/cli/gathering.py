"""Requests that arrive within a short time, gathered for one call."""

from __future__ import annotations

from collections.abc import Callable

from hostmanager_server.drivers.contract import Poller

# How long, in s, a call waits for further services. Longer than a turn of the supervisor (SLICE), because
# the requests of one client may take several turns, with other instances in between. Each request during the
# wait restarts the wait, up to a limit, because a client may send requests without end.
GATHER_TIME = 0.05
GATHER_LIMIT = 1.0


class Gathering:
    """A wait that every request prolongs. Belongs to the supervisor thread."""

    def __init__(self, poller: Poller, ready: Callable[[], None]) -> None:
        self._poller = poller
        self._ready = ready
        self._until: float | None = None  # latest end of the wait, mono in s; None: no wait
        self._joined = False  # a request arrived during the wait

    def join(self) -> None:
        """Begin the wait, or prolong it; `ready` is called at its end."""
        if self._until is None:
            self._until = self._poller.now().mono + GATHER_LIMIT
            self._wait()
        else:
            self._joined = True

    def _wait(self) -> None:
        self._joined = False
        self._poller.call_later(GATHER_TIME, self._finish)

    def _finish(self) -> None:
        assert self._until is not None
        if self._joined and self._poller.now().mono < self._until:
            self._wait()
            return
        self._until = None
        self._ready()
