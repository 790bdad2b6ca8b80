"""Wake-ups for waiting streams when the store publishes, without a queue for each stream."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hostmanager_server.rpc.errors import RpcError, shutting_down
from hostmanager_server.state.store import Store

T = TypeVar("T")

# The longest time in s that the streams may hold up the publishing thread: a stream that needs more must not
# delay the replacement of an agent.
_TURN = 0.002


class Watcher:
    """One stream that waits for changes. Holds no data: the stream keeps its own cursor into the store."""

    def __init__(self, hub: Hub, silence: float) -> None:
        """Create a watcher whose waits end after `silence` s without a message; see Hub.watcher."""
        self._hub = hub
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bool] | None = None
        self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def sent(self) -> None:
        """Restart the silence after a message."""
        self._last = self._loop.time()

    async def wait(self, revision: int) -> bool:
        """Wait until the store is past a revision (True) or the silence is over (False).

        Raises RpcError when the daemon shuts down.
        """
        if self._hub.closing:
            raise shutting_down()
        if self._hub.revision > revision:
            return True
        self._waiting = self._loop.create_future()
        if self._timer is None:
            self._arm()
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def wake(self, *, changed: bool) -> None:
        """End the present wait with `changed` as its outcome."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(changed)

    def fail(self, error: RpcError) -> None:
        """End the present wait with an error."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        # One timer for each stream, moved on when it fires too early, is cheaper than one for each message.
        self._timer = self._loop.call_at(self._last + self._silence, self._fire)

    def _fire(self) -> None:
        if self._loop.time() >= self._last + self._silence:
            self._last = self._loop.time()
            self.wake(changed=False)
        self._arm()


class Hub:
    """The waiting streams of the daemon.

    The hub belongs to the event loop. The store notifies the hub on the supervisor's thread, once for each
    publication. Each wake-up of the loop takes the interpreter from the supervisor, so the hub wakes the
    daemon's own streams only at the end of the supervisor's round.
    """

    def __init__(self, store: Store) -> None:
        """Subscribe to the store. Needs a running event loop."""
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._clients: set[Watcher] = set()
        self._own: set[Watcher] = set()
        self._woken_for = store.revision
        self._own_due = False  # own streams wait for the end of the round
        self._closed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()  # in unless_closed
        store.subscribe(self._published)

    @property
    def revision(self) -> int:
        """Revision of the last publication."""
        return self._store.revision

    def round_ended(self) -> None:
        """Wake the streams of the daemon itself. Call on the publishing thread, after its other work."""
        if self._own_due:
            self._own_due = False
            self._call_soon(self._wake_own)

    def _published(self) -> None:
        # A client that comes meanwhile reads the store after it has become a watcher.
        if self._clients:
            self._call_soon(self._wake)
        self._own_due = True

    def _call_soon(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the daemon serves no client any longer
            self._store.unsubscribe(self._published)

    def _wake(self) -> None:
        if self._woken_for == self._store.revision:
            return  # an earlier call has covered this publication
        self._woken_for = self._store.revision
        for watcher in self._clients:
            watcher.wake(changed=True)

    def _wake_own(self) -> None:
        for watcher in self._own:
            watcher.wake(changed=True)

    def let_readers_run(self) -> None:
        """Wait until the streams of clients had a turn since the last publication, for 2 ms at most.

        Call on the publishing thread, before work that takes the processor or the interpreter.
        """
        if not self._clients:
            return
        done = threading.Event()
        try:
            # The streams that `_wake` has woken run in the turn after it, in front of `done.set`.
            self._loop.call_soon_threadsafe(self._loop.call_soon, done.set)
        except RuntimeError:  # the loop is closed
            return
        done.wait(_TURN)

    @property
    def closing(self) -> bool:
        """Whether the daemon is shutting down."""
        return self._closed.is_set()

    @contextmanager
    def watcher(self, silence: float, *, of_client: bool = True) -> Iterator[Watcher]:
        """Provide a watcher for one stream. Admission control counts the streams of clients."""
        watcher = Watcher(self, silence)
        watchers = self._clients if of_client else self._own
        watchers.add(watcher)
        try:
            yield watcher
        finally:
            watcher.close()
            watchers.discard(watcher)

    async def until_closed(self, batches: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield from an iterator until its end. Raises RpcError when the daemon shuts down."""
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
        """Run a coroutine in the calling task. Raises RpcError when the daemon shuts down."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await work
        except asyncio.CancelledError:
            if self.closing and task.uncancel() == 0:
                raise shutting_down() from None
            raise
        finally:
            self._tasks.discard(task)

    def close(self) -> None:
        """End every stream; a stopping server would otherwise wait its whole grace period for them."""
        self._closed.set()
        self._store.unsubscribe(self._published)
        for watcher in [*self._clients, *self._own]:
            watcher.fail(shutting_down())
        for task in list(self._tasks):
            task.cancel()


async def _next(batches: AsyncIterator[T]) -> T | None:
    return await anext(batches, None)
