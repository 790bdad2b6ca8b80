"""Work that is done once for all who ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Joined(Generic[T]):
    """Does one piece of work at a time. Belongs to the event loop.

    Callers that come while the work is done share the next round of it, as the round that runs may have
    looked before they came.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """The outcome of a round that begins after this call. Raises what the work raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._round(self._running))
            self._next.add_done_callback(_look)
        # A caller that leaves does not end the work of the others.
        return await asyncio.shield(self._next)

    async def _round(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        try:
            return await self._work()
        finally:
            self._running = None


def _look(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()  # callers may all have left: no other code looks at it
