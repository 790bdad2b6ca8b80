"""Reads the output of compose services, as one container follows another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound

from hostmanager_server.drivers.compose.connection import Connection, explain
from hostmanager_server.drivers.compose.output import LinesOf, LogsError, OutputLine, messages
from hostmanager_server.threads import name_this_thread

BATCH_LINES = 500
_BATCHES_AHEAD = 4  # that are read before the consumer has taken them
_CALL_WITHIN = 10.0  # s for the engine to begin an answer
_AGAIN = 0.2  # s before a container that still runs is asked again, and between looks at threads that end
_FAILURES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)

Connect = Callable[[], Connection]
Batch = list[OutputLine]


@dataclass(slots=True)
class _Place:
    """How far one container has been read."""

    tail: int | None = None  # how many lines to begin with; None: all
    at: str = ""  # time of the last message that was read; empty: none
    lines: LinesOf = field(default_factory=LinesOf)


async def read_logs(
    connect: Connect, containers: AsyncIterator[Sequence[str]], lines: int, follow: bool
) -> AsyncGenerator[Batch, None]:
    """The last `lines` lines of a service's containers, then with `follow` what they write, and what those
    write that come after them, in batches.

    `containers` gives the ids of the service's containers now, and again whenever anything became of them.
    The lines of several replicas come as they are read, those of each in its order. A slow consumer holds the
    reading up. Raises LogsError. To be closed (`aclose`) when it is left before its end.
    """
    ids = await anext(containers, ())
    places: dict[str, _Place] = {}
    for container in ids:
        places[container] = _Place(tail=-(-lines // len(ids)))  # together they have what was asked for
        async for batch in _so_far(connect, container, places[container], whole=not follow):
            yield batch
        places[container].tail = None if lines else 0
    if not follow:
        return
    followers = _Followers(connect, places)
    change = asyncio.ensure_future(_next(containers))
    news = asyncio.ensure_future(followers.queue.get())
    try:
        followers.look(ids)
        while True:
            await asyncio.wait({change, news}, return_when=asyncio.FIRST_COMPLETED)
            if news.done():
                got = news.result()
                if isinstance(got, LogsError):
                    raise got
                yield got
                news = asyncio.ensure_future(followers.queue.get())
            if change.done():
                current = change.result()
                if current is None:
                    return
                followers.look(current)
                change = asyncio.ensure_future(_next(containers))
    finally:
        change.cancel()
        news.cancel()
        await followers.close()


async def _next(containers: AsyncIterator[Sequence[str]]) -> Sequence[str] | None:
    return await anext(containers, None)


async def _so_far(connect: Connect, container: str, place: _Place, *, whole: bool) -> AsyncIterator[Batch]:
    """What the container has written up to now. `whole`: a line that has not ended is shown, too."""
    request = _Request(connect, container, place, follow=False)
    try:
        while (batch := await asyncio.to_thread(request.next_batch)) is not None:
            if batch:
                yield batch
        if whole and (rest := place.lines.flush()):
            yield rest
    finally:
        request.close()


class _Request:
    """One request for one container's output. `next_batch` blocks; `close` may be called on any thread."""

    def __init__(self, connect: Connect, container: str, place: _Place, *, follow: bool) -> None:
        self._connect = connect
        self._container = container
        self._place = place
        self._follow = follow
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False
        self._batches = self._read()

    def next_batch(self) -> Batch | None:
        """The next lines; None when there are no more. Raises LogsError."""
        try:
            return next(self._batches, None)
        except NotFound:
            return None  # it was removed meanwhile
        except _FAILURES as error:
            if self._closed:
                return None
            what = f"cannot read the output of container {self._container[:12]}"
            raise LogsError(f"{what}: {explain(error)}", isinstance(error, APIError)) from error

    def close(self) -> None:
        """End the request, whatever is being waited for."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.abort()

    def _read(self) -> Iterator[Batch]:
        connection = self._connect()
        try:
            with self._lock:
                self._connection = connection
                if self._closed:
                    return
            place, since = self._place, self._place.at
            tty = connection.inspect(self._container, _CALL_WITHIN).get("Config", {}).get("Tty")
            chunks = connection.output(
                self._container, follow=self._follow, tail=place.tail, since=since, within=_CALL_WITHIN
            )
            batch: Batch = []
            for message in messages(chunks, tty=bool(tty)):
                if since and message.at <= since:  # the engine's `since` includes the moment itself
                    continue
                place.at = max(place.at, message.at)
                batch += place.lines.feed(message)
                if self._follow or len(batch) >= BATCH_LINES:
                    yield batch
                    batch = []
            yield batch
        finally:
            connection.close()


class _Followers:
    """A thread for each container that is followed, all into one short queue. Belongs to the event loop."""

    def __init__(self, connect: Connect, places: dict[str, _Place]) -> None:
        self._connect = connect
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._requests: dict[str, _Request] = {}
        self._threads: dict[str, threading.Thread] = {}
        self.queue: asyncio.Queue[Batch | LogsError] = asyncio.Queue(_BATCHES_AHEAD)

    def look(self, containers: Sequence[str]) -> None:
        """Follow each of these that is not followed: a new one, or one that has ended and may run again."""
        for container in containers:
            thread = self._threads.get(container)
            if thread is None or not thread.is_alive():
                place = self._places.setdefault(container, _Place())
                thread = threading.Thread(target=self._follow, args=(container, place), daemon=True)
                self._threads[container] = thread
                thread.start()

    async def close(self) -> None:
        """End every thread."""
        self._closing.set()
        with self._lock:
            requests_ = list(self._requests.values())
        for request in requests_:
            request.close()
        while any(thread.is_alive() for thread in self._threads.values()):
            while not self.queue.empty():  # one of them may wait for room
                self.queue.get_nowait()
            await asyncio.sleep(_AGAIN / 20)

    # --- on a container's thread

    def _follow(self, container: str, place: _Place) -> None:
        name_this_thread("hm-logs")
        try:
            while not self._closing.is_set():
                self._follow_once(container, place)
                if self._closing.wait(_AGAIN) or not self._runs(container):
                    return  # should it be started again, somebody will `look`
        except LogsError as error:
            self._put(error)

    def _follow_once(self, container: str, place: _Place) -> None:
        request = _Request(self._connect, container, place, follow=True)
        with self._lock:
            self._requests[container] = request
        if self._closing.is_set():
            return
        while (batch := request.next_batch()) is not None:
            if batch:
                self._put(batch)

    def _runs(self, container: str) -> bool:
        try:
            connection = self._connect()
            try:
                return bool(connection.inspect(container, _CALL_WITHIN)["State"]["Running"])
            finally:
                connection.close()
        except _FAILURES:
            return False

    def _put(self, item: Batch | LogsError) -> None:
        if self._closing.is_set():
            return
        try:
            asyncio.run_coroutine_threadsafe(self.queue.put(item), self._loop).result()
        except (CancelledError, RuntimeError):  # the loop is closed: nobody reads any more
            self._closing.set()
