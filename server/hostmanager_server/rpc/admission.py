"""Admission control: count what clients hold, and pace expensive work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from hostmanager.values import dataclass, field

from hostmanager_server.rpc.errors import limit_reached
from hostmanager_server.rpc.limits import Limit, Limits
from hostmanager_server.rpc.pending_requests import PendingRequests

# The pause after a piece of work, in multiples of its duration: gRPC spends about as much again on sending.
PAUSE_FACTOR = 2.0
ANSWER_PAUSE = 0.003  # s
START_PAUSE = 0.003  # s
BYTE_PAUSE = 1e-7  # s for each byte of a request: gRPC takes some 10 ms to receive 300 kB


class Limiter:
    """The enforcement of one limit. Belongs to the event loop."""

    def __init__(self, name: str, limit: Limit, remedy: str) -> None:
        """Create a limiter; clients see `name` and `remedy` in errors."""
        self.name = name
        self._limit = limit
        self._remedy = remedy
        self._held: dict[str, int] = {}  # by client

    @property
    def held(self) -> int:
        """The amount that all clients hold together."""
        return sum(self._held.values())

    @contextmanager
    def hold(self, client: str, amount: int = 1) -> Iterator[None]:
        """Count `amount` for the client while the context is open.

        Raises RpcError (RESOURCE_EXHAUSTED) when the client, or all clients together, would exceed the limit.
        """
        if self.held + amount > self._limit.total:
            raise limit_reached(self.name, self._limit.total, self._remedy)
        held = self._held.get(client, 0)
        if held + amount > self._limit.per_client:
            raise limit_reached(f"{self.name}-per-client", self._limit.per_client, self._remedy)
        self._held[client] = held + amount
        try:
            yield
        finally:
            remaining = self._held.pop(client, 0) - amount
            if remaining > 0:
                self._held[client] = remaining


class Pacer:
    """An asynchronous lock that admits one piece of work at a time, in order of arrival, with pauses.

    After each piece the event loop is free for PAUSE_FACTOR times the duration of the piece, and for at least
    `pause` s. A queue of a thousand pieces therefore delays another client's call by one piece for each step
    of the call, not by the whole queue.
    """

    def __init__(self, pause: float = 0.0) -> None:
        """Create a pacer with a shortest pause, in s."""
        self._pause = pause
        self._lock = asyncio.Lock()
        self._began = 0.0
        self._added = 0.0
        self.waiting = 0

    def add_pause(self, seconds: float) -> None:
        """Make the next pause longer."""
        self._added += seconds

    async def __aenter__(self) -> Self:
        self.waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self.waiting -= 1
        self._began = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        pause = max(self._pause, PAUSE_FACTOR * (time.monotonic() - self._began)) + self._added
        self._added = 0.0
        asyncio.get_running_loop().call_later(pause, self._lock.release)


@dataclass(slots=True)
class AdmissionControl:
    """The limiters and pacers of one server."""

    limits: Limits
    streams: Limiter = field(init=False)
    log_streams: Limiter = field(init=False)
    engine_streams: Limiter = field(init=False)
    filter_bytes: Limiter = field(init=False)
    long_calls: Limiter = field(init=False)
    queued_calls: Limiter = field(init=False)
    request_bytes: Limiter = field(init=False)
    pending_requests: PendingRequests = field(init=False)
    # For the begin of streams, and of calls that may have large requests: until its turn, a call neither
    # reads its request, of which gRPC holds 8 KiB meanwhile, nor does any work.
    start_pacer: Pacer = field(default_factory=lambda: Pacer(START_PAUSE))
    message_pacer: Pacer = field(default_factory=Pacer)  # for stream messages that are expensive to build
    large_change_pacer: Pacer = field(default_factory=Pacer)
    large_list_pacer: Pacer = field(default_factory=Pacer)
    # For refusals by a limit and answers to long calls. gRPC starts one call in each round of the event loop:
    # without a pause, a refusal would come first every time.
    answer_pacer: Pacer = field(default_factory=lambda: Pacer(ANSWER_PAUSE))

    async def turn_to_start(self) -> None:
        """Wait for the turn of a call to read its request."""
        async with self.start_pacer:
            pass

    def __post_init__(self) -> None:
        limits = self.limits
        close = "close streams that are not needed"
        self.streams = Limiter("max-watchers", Limit(limits.watchers, limits.watchers_per_client), close)
        self.log_streams = Limiter("max-log-streams", limits.log_streams, close)
        self.engine_streams = Limiter("max-engine-streams", limits.engine_streams, close)
        self.filter_bytes = Limiter(
            "max-filter-bytes", limits.filter_bytes, "name fewer instance_ids, or none to watch all"
        )
        self.long_calls = Limiter("max-long-calls", limits.long_calls, "wait until others are answered")
        self.queued_calls = Limiter("max-queued-calls", limits.queued_calls, "wait until others are answered")
        self.pending_requests = PendingRequests(limits.calls_without_request)
        self.request_bytes = Limiter(
            "max-waiting-request-bytes",
            limits.waiting_request_bytes,
            "wait until others are answered, or send less",
        )
