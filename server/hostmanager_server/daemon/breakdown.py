"""Breakdowns of the supervision, as the event loop observes them."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class BrokenDownError(Exception):
    """A bug ended the supervision."""


class Breakdown:
    """Lets the event loop learn that a bug ended the supervisor thread."""

    def __init__(self) -> None:
        self._noted = asyncio.Event()

    def note(self) -> None:
        """Note that the supervision has ended."""
        self._noted.set()

    async def unless_broken(self, future: Future[T]) -> T:
        """Return the result of a request to the supervisor.

        Raises BrokenDownError if the supervision ends first, as the supervisor then never answers.
        """
        answer: asyncio.Future[T] = asyncio.wrap_future(future)
        broken: asyncio.Future[Any] = asyncio.ensure_future(self._noted.wait())
        both: list[asyncio.Future[Any]] = [answer, broken]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise BrokenDownError
            return answer.result()
        finally:
            broken.cancel()
