"""A proxy that delays all bytes, like a link with a long round trip."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextlib.contextmanager
def slow_link(target: Path, delay: float, *, listen: Path | None = None) -> Iterator[str]:
    """Forward connections to the unix socket `target` with a delay of `delay` s each way.

    Yields the address of the proxy: `listen`, or a port of loopback.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    link = _Link(target, delay)
    try:
        yield asyncio.run_coroutine_threadsafe(link.open(listen), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(link.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


class _Link:
    def __init__(self, target: Path, delay: float) -> None:
        self._target = target
        self._delay = delay
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self, listen: Path | None) -> str:
        if listen is not None:
            self._server = await asyncio.start_unix_server(self._accept, listen)
            return f"unix:{listen}"
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Forward all bytes and the end of the connection, each with the same delay."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    pieces.put_nowait((loop.time() + self._delay, data))
            pieces.put_nowait((loop.time() + self._delay, b""))

        receiver = asyncio.create_task(receive())
        try:
            with contextlib.suppress(ConnectionError):
                while True:
                    due, data = await pieces.get()
                    await asyncio.sleep(due - loop.time())
                    if not data:
                        return
                    sink.write(data)
                    await sink.drain()
        finally:
            receiver.cancel()
            sink.close()
