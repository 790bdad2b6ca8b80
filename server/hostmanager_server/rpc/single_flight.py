"""Suppression of duplicate work, as Go's singleflight does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """A function with at most one run at a time. Belongs to the event loop.

    All calls during a run share the next run, as the present run may have read its inputs before they came.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        """Wrap `work`."""
        self._work = work
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """Return the outcome of a run that begins after this call. Raises what the work raises."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._run_after(self._running))
            self._next.add_done_callback(_retrieve_exception)
        # Cancelling one caller must not end the work of the others.
        return await asyncio.shield(self._next)

    async def _run_after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        try:
            return await self._work()
        finally:
            self._running = None


def _retrieve_exception(task: asyncio.Task[T]) -> None:
    """Keep asyncio from logging an exception that no caller awaits because all were cancelled."""
    if not task.cancelled():
        task.exception()
