"""The hub: tells every waiting stream that the store has something new, without a queue for any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hostmanager_server.rpc.errors import RpcError, shutting_down
from hostmanager_server.state.store import Store

T = TypeVar("T")


class Watcher:
    """One stream's place to wait. Holds no data: the stream keeps its own cursor into the store."""

    def __init__(self, hub: Hub, silence: float) -> None:
        self._hub = hub
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bool] | None = None
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def sent(self) -> None:
        """Something was sent: the silence begins anew."""
        self._last = self._loop.time()

    async def wait(self, seen: int) -> bool:
        """Wait until the store is past revision `seen` (True), or the silence has lasted too long (False).
        Raises RpcError when the daemon shuts down."""
        if self._hub.closing:
            raise shutting_down()
        if self._hub.revision > seen:
            return True
        self._waiting = self._loop.create_future()
        if self._timer is None:
            self._arm()
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def wake(self, news: bool) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(news)

    def fail(self, error: RpcError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        # One timer a stream, moved on when it fires too early: cheaper than one a message.
        self._timer = self._loop.call_at(self._last + self._silence, self._fire)

    def _fire(self) -> None:
        if self._loop.time() >= self._last + self._silence:
            self._last = self._loop.time()
            self.wake(False)
        self._arm()


class Hub:
    """Lives on the event loop; the store wakes it from the supervisor's thread, once per publication."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._watchers: set[Watcher] = set()
        self.revision = store.revision
        self._closed = asyncio.Event()
        self._working: set[asyncio.Task[Any]] = set()
        store.subscribe(self._published)

    def _published(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the daemon is past serving anybody
            self._store.unsubscribe(self._published)

    def _wake(self) -> None:
        if self.revision == self._store.revision:
            return  # an earlier call has told of this publication too
        self.revision = self._store.revision
        for watcher in self._watchers:
            watcher.wake(True)

    @property
    def closing(self) -> bool:
        return self._closed.is_set()

    @contextmanager
    def watcher(self, silence: float) -> Iterator[Watcher]:
        """A place to wait. Streams of clients are counted where they begin (see Quotas)."""
        watcher = Watcher(self, silence)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            watcher.close()
            self._watchers.discard(watcher)

    async def until_closed(self, batches: AsyncIterator[T]) -> AsyncIterator[T]:
        """What the iterator gives, until it ends or (RpcError) the daemon shuts down."""
        closed = asyncio.ensure_future(self._closed.wait())
        batch: asyncio.Task[T | None] | None = None
        try:
            while True:
                batch = asyncio.ensure_future(_next(batches))
                await asyncio.wait({batch, closed}, return_when=asyncio.FIRST_COMPLETED)
                if closed.done():
                    raise shutting_down()
                result = batch.result()
                if result is None:
                    return
                yield result
        finally:
            closed.cancel()
            if batch is not None and not batch.done():
                batch.cancel()
                await asyncio.wait({batch})
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()

    async def unless_closed(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work until it ends or (RpcError) the daemon shuts down. The task that calls does it."""
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        try:
            await work
        except asyncio.CancelledError:
            if self.closing and task.uncancel() == 0:
                raise shutting_down() from None
            raise
        finally:
            self._working.discard(task)

    def close(self) -> None:
        """End every stream: a server that stops would wait its whole grace for them."""
        self._closed.set()
        self._store.unsubscribe(self._published)
        for watcher in list(self._watchers):
            watcher.fail(shutting_down())
        for task in list(self._working):
            task.cancel()


async def _next(batches: AsyncIterator[T]) -> T | None:
    return await anext(batches, None)
