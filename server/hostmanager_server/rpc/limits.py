"""Limits on what clients can make grow, and the counting of what they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from hostmanager_server.rpc.errors import limit_reached


@dataclass(frozen=True, slots=True)
class Share:
    """The most of one thing that all clients of a server may hold together, and one client alone."""

    everyone: int
    client: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients can make grow, for one server. Counts unless stated otherwise.

    One client is one TCP host, or all that use the unix socket. Each value fits into 64 MiB of memory when
    one client takes all that it may.
    """

    watchers: int = 4096  # streams of every kind
    watchers_per_client: int = 2048
    log_streams: Share = Share(256, 128)  # a reader that stalls holds up to two batches of 64 KiB
    engine_streams: Share = Share(64, 32)  # pulls that are followed, removals of orphans
    filter_bytes: Share = Share(8 * 1024**2, 3 * 1024**2)  # memory for the instance_ids of watches
    long_calls: Share = Share(256, 128)  # see LONG_CALLS in service
    calls: int = 8192  # under way at once, streams included
    connections: int = 1024
    # gRPC begins calls in order of arrival: so many of one connection may come before another's.
    streams_per_connection: int = 256
    # 1,000 ids of 80 characters take 332 KiB when each character takes four bytes.
    request_bytes: int = 384 * 1024
    handshake_seconds: int = 10

    def for_admins(self) -> Limits:
        """The limits of what is kept back for admins."""
        few = Share(16, 16)
        return replace(
            self,
            watchers=min(self.watchers, 128), watchers_per_client=min(self.watchers_per_client, 128),
            log_streams=few, engine_streams=few, long_calls=few, filter_bytes=Share(2**20, 2**20),
            calls=512, connections=32, streams_per_connection=128,
        )  # fmt: skip


class Quota:
    """Counts one thing that clients hold. Belongs to the event loop."""

    def __init__(self, name: str, share: Share, remedy: str) -> None:
        self._name = name
        self._share = share
        self._remedy = remedy
        self._held: dict[str, int] = {}  # by client

    @property
    def held(self) -> int:
        return sum(self._held.values())

    @contextmanager
    def hold(self, client: str, amount: int = 1) -> Iterator[None]:
        """Hold so much. Raises RpcError when the client would hold more than it may, or all would."""
        if self.held + amount > self._share.everyone:
            raise limit_reached(self._name, self._share.everyone, self._remedy)
        held = self._held.get(client, 0)
        if held + amount > self._share.client:
            raise limit_reached(f"{self._name}-per-client", self._share.client, self._remedy)
        self._held[client] = held + amount
        try:
            yield
        finally:
            left = self._held.pop(client, 0) - amount
            if left > 0:
                self._held[client] = left


# A piece costs about as much again where gRPC sends it.
REST = 2.0
ANSWER_PAUSE = 0.003  # s


class Turns:
    """Lets one piece of work at a time onto the event loop, in order of arrival.

    After each the loop is left to others for REST times as long as the piece took, and for `pause` s at
    least. So a thousand pieces of work delay another client's call by one piece for each step of that call,
    and not by all thousand.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self._pause = pause
        self._lock = asyncio.Lock()
        self._began = 0.0

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._began = time.monotonic()
        return self

    async def __aexit__(self, *_: object) -> None:
        rest = max(self._pause, REST * (time.monotonic() - self._began))
        asyncio.get_running_loop().call_later(rest, self._lock.release)


@dataclass(slots=True)
class Quotas:
    """What the clients of one server hold, and whose turn is next."""

    limits: Limits
    streams: Quota = field(init=False)
    log_streams: Quota = field(init=False)
    engine_streams: Quota = field(init=False)
    filter_bytes: Quota = field(init=False)
    long_calls: Quota = field(init=False)
    messages: Turns = field(default_factory=Turns)  # of streams that take time to make
    large_changes: Turns = field(default_factory=Turns)
    large_lists: Turns = field(default_factory=Turns)
    # gRPC begins one call in a round of the loop: refusals must not come in between each time.
    answers: Turns = field(
        default_factory=lambda: Turns(ANSWER_PAUSE)
    )  # refusals by a limit, and answers to long calls

    def __post_init__(self) -> None:
        limits = self.limits
        close = "close streams that are not needed"
        self.streams = Quota("max-watchers", Share(limits.watchers, limits.watchers_per_client), close)
        self.log_streams = Quota("max-log-streams", limits.log_streams, close)
        self.engine_streams = Quota("max-engine-streams", limits.engine_streams, close)
        self.filter_bytes = Quota(
            "max-filter-bytes", limits.filter_bytes, "name fewer instance_ids, or none to watch all"
        )
        self.long_calls = Quota("max-long-calls", limits.long_calls, "wait until others are answered")
