"""A buffer of lines between reader threads and the event loop."""

from __future__ import annotations

import asyncio
import threading

from hostmanager_server.drivers.compose.logs.demultiplexer import LogsError, OutputLine

CAPACITY = 256 * 1024  # characters; a batch that does not fit waits, unless the buffer is empty

LineBatch = list[OutputLine]


class LineBuffer:
    """A bounded buffer of lines; create it on the event loop.

    `take` belongs to the event loop, all other methods to any thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._filled = asyncio.Event()
        self._room = threading.Condition()  # guards all fields below
        self._lines: LineBatch = []
        self._size = 0
        self._error: LogsError | None = None
        self._closed = False

    def put(self, batch: LineBatch) -> None:
        """Add lines; block until there is room. After `close`, do nothing."""
        size = sum(len(line.text) + 1 for line in batch)
        with self._room:
            self._room.wait_for(lambda: self._closed or not self._lines or self._size + size <= CAPACITY)
            if self._closed:
                return
            first = not self._lines
            self._lines += batch
            self._size += size
        if first:
            self._notify()

    def fail(self, error: LogsError) -> None:
        """Add an error after the last line. Returns at once."""
        with self._room:
            self._error = error
        self._notify()

    async def take(self) -> LineBatch:
        """Wait for lines, and return all of them; after the last, raise the error."""
        await self._filled.wait()
        with self._room:
            lines, self._lines, self._size = self._lines, [], 0
            if self._error is None:
                self._filled.clear()
            self._room.notify_all()
        if not lines and self._error is not None:
            raise self._error
        return lines

    def close(self) -> None:
        """End the buffer: the event loop takes no more lines."""
        with self._room:
            self._closed = True
            self._room.notify_all()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._filled.set)
        except RuntimeError:  # the event loop is closed
            self.close()
