"""The output of several instances, read by tasks of the asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.calls import PLAIN_TIMEOUT
from hostmanager_client.errors import HostManagerError
from hostmanager_client.log_merge import MOST_READERS, PATIENCE, InstanceLine, LogMerge, share
from hostmanager_client.log_stream import LogQuery, LogStream
from hostmanager_client.reconnect import OnConnection, ignore
from hostmanager_client.streams import Item, Stream

_QUEUED = 1000  # lines between the tasks and the reader

Follow = Callable[[LogStream], AsyncGenerator[pb.LogLine]]
OnLogError = Callable[[str, HostManagerError], None]
_Message = tuple[str, "pb.LogLine | Exception | None"]  # None: caught up


class AsyncLogCalls:
    """The calls that read output, of the asyncio client."""

    _timeout: float | None

    def _follow(
        self, stream: Stream[Item], on_connection: OnConnection, deadline: float | None = None
    ) -> AsyncGenerator[Item]:
        raise NotImplementedError  # each client has its own

    def tail_logs(
        self,
        instance_id: str,
        *,
        lines: int | None = None,
        follow: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        previous: bool = False,
        on_connection: OnConnection = ignore,
    ) -> AsyncGenerator[pb.LogLine]:
        """Yield the last `lines` log lines of an instance (None: 100; with a time or `previous` 100,000).

        `since`, `until`: only lines between these times (local time without a zone), and lines of unknown
        time that may lie between them. `previous`: only the output of the latest run that has ended.
        `follow`: then yield every new line, and reconnect after lost connections.
        """
        query = LogQuery(lines, follow, since, until, previous)
        return self._follow(self._log_stream(instance_id, query), on_connection)

    def tail_all_logs(
        self,
        instance_ids: Iterable[str],
        *,
        lines: int | None = None,
        follow: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        previous: bool = False,
        on_error: OnLogError | None = None,
        on_connection: OnConnection = ignore,
    ) -> AsyncGenerator[InstanceLine]:
        """Yield the lines of several instances by their times, then with `follow` new lines as they come.

        Each instance has at most `lines` lines, all together 100,000. `on_error` gets the id and the error of
        an instance that cannot be read, and the others continue; None: the error is raised. Other arguments
        as in `tail_logs`.
        """
        ids = list(dict.fromkeys(instance_ids))
        query = share(LogQuery(lines, follow, since, until, previous), ids)
        streams = {each: self._log_stream(each, query) for each in ids}
        return read_merged_async(streams, lambda stream: self._follow(stream, on_connection), on_error)

    def tail_daemon_log(
        self, *, lines: int | None = None, follow: bool = False, on_connection: OnConnection = ignore
    ) -> AsyncGenerator[pb.LogLine]:
        """Yield the last lines of the daemon's own log, as `tail_logs` does for an instance.

        Raises PreconditionFailed, with the command that shows the log, if systemd keeps the log.
        """
        return self._follow(self._log_stream(None, LogQuery(lines, follow)), on_connection)

    def _log_stream(self, instance_id: str | None, query: LogQuery) -> LogStream:
        return LogStream(instance_id, query, silence=self._timeout or PLAIN_TIMEOUT)


async def read_merged_async(
    streams: dict[str, LogStream], follow: Follow, on_error: OnLogError | None
) -> AsyncGenerator[InstanceLine]:
    """Yield the lines of all streams, as log_readers.read_merged does."""
    merge = LogMerge(streams)
    lines: asyncio.Queue[_Message] = asyncio.Queue(_QUEUED)
    following = any(stream.reconnects for stream in streams.values())
    turns = asyncio.Semaphore(len(streams) if following else MOST_READERS)
    tasks = [
        asyncio.create_task(_read(each, stream, follow, lines, turns)) for each, stream in streams.items()
    ]
    ends = asyncio.gather(*tasks, return_exceptions=True)
    try:
        while not (ends.done() and lines.empty()):
            message = await _next(lines, ends, PATIENCE if merge.holds_lines else None)
            if message is not None:
                shown = _handle(merge, *message, on_error)
            else:
                shown = [] if ends.done() else merge.release()
            for each in shown:
                yield each
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait([ends])


def _handle(
    merge: LogMerge, instance_id: str, found: pb.LogLine | Exception | None, on_error: OnLogError | None
) -> list[InstanceLine]:
    """Return the lines to show after a message; raise the error of an instance without `on_error`."""
    if isinstance(found, pb.LogLine):
        return merge.add(instance_id, found)
    if found is None:
        return merge.caught_up(instance_id)
    if not isinstance(found, HostManagerError) or on_error is None:
        raise found
    on_error(instance_id, found)
    return []


async def _next(
    lines: asyncio.Queue[_Message], ends: asyncio.Future[Any], patience: float | None
) -> _Message | None:
    """Return the next message; None after `patience` s, or when all tasks have ended."""
    if not lines.empty():
        return lines.get_nowait()
    getting = asyncio.ensure_future(lines.get())
    try:
        await asyncio.wait({getting, ends}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()


async def _read(
    instance_id: str,
    stream: LogStream,
    follow: Follow,
    lines: asyncio.Queue[_Message],
    turns: asyncio.Semaphore,
) -> None:
    caught_up = asyncio.Event()
    stream.on_caught_up = caught_up.set
    async with turns:
        announcing = asyncio.ensure_future(_announce(instance_id, caught_up, lines))
        try:
            async with aclosing(follow(stream)) as found:
                async for line in found:
                    await lines.put((instance_id, line))
        except Exception as error:  # raised by the reader, in its task
            await lines.put((instance_id, error))
        finally:
            announcing.cancel()
    await lines.put((instance_id, None))


async def _announce(instance_id: str, caught_up: asyncio.Event, lines: asyncio.Queue[_Message]) -> None:
    await caught_up.wait()
    await lines.put((instance_id, None))
