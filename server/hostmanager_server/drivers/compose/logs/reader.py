"""Output of compose services, read across container replacements."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from http import HTTPStatus

import requests
import urllib3
from docker.errors import APIError, DockerException

from hostmanager_server.drivers.compose.engine.connection import Connection, explain
from hostmanager_server.drivers.compose.logs.cursor import LogCursor, RepeatFilter
from hostmanager_server.drivers.compose.logs.demultiplexer import (
    Demultiplexer,
    LineSplitter,
    LogsError,
    engine_time_of,
)
from hostmanager_server.drivers.compose.logs.last_lines import LastOutput, wanted_times
from hostmanager_server.drivers.compose.logs.line_buffer import LineBatch, LineBuffer
from hostmanager_server.drivers.output.wanted_lines import WantedLines
from hostmanager_server.linux.thread_names import name_this_thread

_THREAD = "hm-logs"
_BATCH_LINES = 500
_BATCH_SIZE = 64 * 1024  # characters
_CALL_TIMEOUT = 10.0  # s for the engine to begin an answer
_RETRY_DELAY = 0.2  # s before another request for the output of a container that still runs
_BEING_REMOVED = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)  # the container is removed, or being removed
_FAILURES = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)

ConnectForLogs = Callable[[], Connection]


async def read_logs(
    connect: ConnectForLogs,
    containers: AsyncIterator[Sequence[str]],
    wanted: WantedLines,
    *,
    threads: Executor | None = None,
) -> AsyncGenerator[LineBatch, None]:
    """Yield the wanted lines of a service, then with `follow` all new lines.

    Lines come in batches; with `follow`, an empty batch comes after the last line that existed before.

    `containers` yields the ids of the service's containers now, and again after every change; new output of
    later containers follows as well. Lines of replicas mix as they arrive; those of one replica stay in
    order. A slow consumer blocks the reading. Existing output is read on one of the `threads` (None: those of
    the event loop), a batch at a time. A caller that stops early must call `aclose`. Raises LogsError.
    """
    ids = await anext(containers, ())
    cursors: dict[str, LogCursor] = {}
    since = engine_time_of(wanted.since) if wanted.since is not None else ""
    for index, container in enumerate(ids):
        share = (wanted.lines + len(ids) - 1 - index) // len(ids)  # the shares add up to `lines`
        cursor = cursors[container] = LogCursor(at=since)
        if wanted.until is None and not wanted.runs_back:
            cursor.tail = max(1, share)  # one line gives a position to go on from
            async for batch in _existing_output(connect, container, cursor, threads, wanted):
                if share:
                    yield batch
        else:  # the engine counts its last lines before the end that is wanted here
            last = LastOutput(share)
            async for batch in _existing_output(connect, container, cursor, threads, wanted):
                last.add(batch)
            for batch in last.batches(_BATCH_LINES):
                yield batch
        cursor.tail = None
        if not share:
            cursor.lines = LineSplitter()
    if wanted.follow:
        yield []
        async with aclosing(_followed_output(connect, containers, ids, cursors)) as batches:
            async for batch in batches:
                yield batch


async def _followed_output(
    connect: ConnectForLogs,
    containers: AsyncIterator[Sequence[str]],
    ids: Sequence[str],
    cursors: dict[str, LogCursor],
) -> AsyncGenerator[LineBatch, None]:
    """Yield new lines of the containers `ids`, and of later containers."""
    followers = _Followers(connect, cursors)
    change = asyncio.ensure_future(_next(containers))
    new_lines = asyncio.ensure_future(followers.lines.take())
    try:
        followers.follow(ids)
        while True:
            await asyncio.wait({change, new_lines}, return_when=asyncio.FIRST_COMPLETED)
            if new_lines.done():
                yield new_lines.result()
                new_lines = asyncio.ensure_future(followers.lines.take())
            if change.done():
                current = change.result()
                if current is None:
                    return
                followers.follow(current)
                change = asyncio.ensure_future(_next(containers))
    finally:
        change.cancel()
        new_lines.cancel()
        await followers.close()


async def _next(containers: AsyncIterator[Sequence[str]]) -> Sequence[str] | None:
    return await anext(containers, None)


async def _existing_output(
    connect: ConnectForLogs, container: str, cursor: LogCursor, threads: Executor | None, wanted: WantedLines
) -> AsyncIterator[LineBatch]:
    """Yield the output up to now."""
    loop = asyncio.get_running_loop()
    request = _Request(connect, container, cursor, follow=False, whole=not wanted.follow, wanted=wanted)
    try:
        while (batch := await loop.run_in_executor(threads, request.next_batch)) is not None:
            if batch:
                yield batch
    finally:
        request.close()


class _Request:
    """One request for one container's output.

    `next_batch` blocks; `close` is thread-safe.

    With `whole`, a partial line at the end of the output is a line as well; always so for a container that
    does not run.
    """

    def __init__(
        self, connect: ConnectForLogs, container: str, cursor: LogCursor, *, follow: bool, whole: bool,
        wanted: WantedLines | None = None,
    ) -> None:  # fmt: skip
        self._connect = connect
        self._container = container
        self._cursor = cursor
        self._follow = follow
        self._whole = whole
        self._wanted = wanted
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False
        self._batches = self._read()

    def next_batch(self) -> LineBatch | None:
        """Return the next lines, or None at the end. Raises LogsError."""
        try:
            return next(self._batches, None)
        except _FAILURES as error:
            if self._closed or (isinstance(error, APIError) and error.status_code in _BEING_REMOVED):
                return None
            message = f"cannot read the output of container {self._container[:12]}: {explain(error)}"
            lasting = isinstance(error, APIError) and error.status_code != HTTPStatus.INTERNAL_SERVER_ERROR
            raise LogsError(message, lasting=lasting) from error

    def close(self) -> None:
        """End the request, also during a wait for the engine."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.abort()

    def _read(self) -> Iterator[LineBatch]:
        connection = self._connect()
        try:
            with self._lock:
                self._connection = connection
                if self._closed:
                    return
            cursor = self._cursor
            found = connection.inspect(self._container, _CALL_TIMEOUT)
            begin, end = wanted_times(self._wanted, found["State"])
            cursor.at = max(cursor.at, begin)
            is_new = RepeatFilter(cursor)
            stream = Demultiplexer(tty=bool(found["Config"]["Tty"]))
            whole = self._whole or not found["State"]["Running"]
            batch: LineBatch = []
            size = 0
            for chunk in connection.stream_output(
                self._container, follow=self._follow, tail=cursor.tail, since=cursor.at, within=_CALL_TIMEOUT
            ):
                for message in stream.feed(chunk):
                    if end and message.at > end:
                        yield [*batch, *(cursor.lines.flush() if whole else ())]
                        return
                    if is_new(message):
                        batch += (taken := cursor.take(message))
                        size += sum(len(line.text) for line in taken)
                    if len(batch) >= _BATCH_LINES or size >= _BATCH_SIZE:
                        yield batch
                        batch, size = [], 0
                if batch and self._follow:
                    yield batch
                    batch, size = [], 0
            if whole:
                batch += cursor.lines.flush()
            yield batch
        finally:
            connection.close()


class _Followers:
    """One thread for each followed container, all writing into one LineBuffer.

    Belongs to the event loop.
    """

    def __init__(self, connect: ConnectForLogs, cursors: dict[str, LogCursor]) -> None:
        self._connect = connect
        self._cursors = cursors
        self.lines = LineBuffer()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._requests: dict[str, _Request] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._followed: set[str] = set()  # containers with a thread that goes on
        self._follow_requests: dict[str, int] = {}  # number of calls of `follow` for each container

    def follow(self, containers: Sequence[str]) -> None:
        """Follow these containers; start a thread for each container without one.

        Such a container is new, or has ended and may run again.
        """
        self._forget_removed(containers)
        for container in containers:
            with self._lock:
                self._follow_requests[container] = self._follow_requests.get(container, 0) + 1
                if container in self._followed:
                    continue
                self._followed.add(container)
            cursor = self._cursors.setdefault(container, LogCursor())
            thread = threading.Thread(
                target=self._follow, args=(container, cursor), name=_THREAD, daemon=True
            )
            self._threads[container] = thread
            thread.start()

    def _forget_removed(self, containers: Sequence[str]) -> None:
        """Forget containers outside the list: removed containers do not come back."""
        with self._lock:
            for container in set(self._follow_requests) - set(containers) - self._followed:
                for known in (self._follow_requests, self._requests, self._threads, self._cursors):
                    known.pop(container, None)

    async def close(self) -> None:
        """End all threads, and wait for them."""
        self._closing.set()
        self.lines.close()
        with self._lock:
            requests_ = list(self._requests.values())
        for request in requests_:
            request.close()
        while any(thread.is_alive() for thread in self._threads.values()):  # noqa: ASYNC110  # threads set no event
            await asyncio.sleep(_RETRY_DELAY / 20)

    # --- on a container's thread

    def _follow(self, container: str, cursor: LogCursor) -> None:
        name_this_thread(_THREAD)
        try:
            while not self._closing.is_set():
                with self._lock:
                    request_count = self._follow_requests[container]
                self._follow_once(container, cursor)
                if not self._closing.wait(_RETRY_DELAY) and self._runs(container):
                    continue
                with self._lock:
                    if self._follow_requests[container] == request_count:
                        self._followed.discard(container)
                        return  # another start of the container calls `follow` again
        except LogsError as error:
            self.lines.fail(error)

    def _follow_once(self, container: str, cursor: LogCursor) -> None:
        request = _Request(self._connect, container, cursor, follow=True, whole=True)
        with self._lock:
            self._requests[container] = request
        if self._closing.is_set():
            return
        while (batch := request.next_batch()) is not None:
            if batch:
                self.lines.put(batch)

    def _runs(self, container: str) -> bool:
        try:
            connection = self._connect()
            try:
                return bool(connection.inspect(container, _CALL_TIMEOUT)["State"]["Running"])
            finally:
                connection.close()
        except _FAILURES:
            return False
