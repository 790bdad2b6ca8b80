"""Calls whose request has not come yet: how long they wait, and how many."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from hostmanager_server.rpc.errors import RpcError, invalid, limit_reached, shutting_down
from hostmanager_server.rpc.limits import Limit

T = TypeVar("T")

REQUEST_PATIENCE = 30.0  # the longest wait for the request of a call, s
NAME = "max-calls-without-request"


class PendingRequests:
    """The calls of one server that wait for their request. Belongs to the event loop.

    A call beyond the limit ends the oldest call, not itself: an honest request comes in milliseconds. Clients
    that share an identity, as on the unix socket, therefore cannot keep one another from an answer.
    """

    def __init__(self, limit: Limit) -> None:
        """Create an empty set of calls."""
        self._limit = limit
        self._waits: dict[str, dict[asyncio.Future[None], None]] = {}  # by client, the oldest first
        self._count = 0
        self._closed = False

    @property
    def held(self) -> int:
        """The number of calls of all clients."""
        return self._count

    async def read(self, client: str, read: Coroutine[Any, Any, T]) -> T:
        """Return the next message of a call; `read` is the read of gRPC, with EOF for the end.

        Raises RpcError when the client sends no message in REQUEST_PATIENCE, or ends its side; and when
        newer calls exceed the limit, or the daemon shuts down, before a message comes.
        """
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        # gRPC writes into a pending read until the call ends: nothing here may cancel the read.
        reading = asyncio.ensure_future(read)
        reading.add_done_callback(lambda done: _end(over, done))
        timer = loop.call_later(REQUEST_PATIENCE, _fail, over, _none_came())
        self._add(client, over)
        try:
            await over
        finally:
            timer.cancel()
            self._discard(client, over)
        data = reading.result()
        if data is grpc.aio.EOF:
            raise invalid("cannot answer a call without a request; send one message")
        return data

    def close(self) -> None:
        """End all waits, those of the future as well: the daemon shuts down."""
        self._closed = True
        for waits in list(self._waits.values()):
            for over in waits:
                _fail(over, shutting_down())

    def _add(self, client: str, over: asyncio.Future[None]) -> None:
        if self._closed:
            _fail(over, shutting_down())
        waits = self._waits.setdefault(client, {})
        waits[over] = None
        self._count += 1
        if len(waits) > self._limit.per_client:
            self._end_oldest(client, f"{NAME}-per-client", self._limit.per_client)
        elif self._count > self._limit.total:
            largest = max(self._waits, key=lambda each: len(self._waits[each]))
            self._end_oldest(largest, NAME, self._limit.total)

    def _end_oldest(self, client: str, name: str, limit: int) -> None:
        oldest = next(iter(self._waits[client]))
        self._discard(client, oldest)
        _fail(oldest, limit_reached(name, limit, "send the request when the call begins"))

    def _discard(self, client: str, over: asyncio.Future[None]) -> None:
        waits = self._waits.get(client, {})
        if over in waits:
            del waits[over]
            self._count -= 1
            if not waits:
                del self._waits[client]


def _none_came() -> RpcError:
    return invalid(f"cannot answer a call without a request; none came within {REQUEST_PATIENCE:g} s")


def _end(over: asyncio.Future[None], reading: asyncio.Future[Any]) -> None:
    # Asking for the exception marks it as seen: a read that outlives the call fails, and asyncio would log.
    if not reading.cancelled():
        reading.exception()
    if not over.done():
        over.set_result(None)


def _fail(over: asyncio.Future[None], error: RpcError) -> None:
    if not over.done():
        over.set_exception(error)
