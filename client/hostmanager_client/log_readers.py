"""The output of several instances, read by threads of the blocking client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from datetime import datetime

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.calls import PLAIN_TIMEOUT
from hostmanager_client.errors import HostManagerError
from hostmanager_client.log_merge import MOST_READERS, PATIENCE, InstanceLine, LogMerge, share
from hostmanager_client.log_stream import LogQuery, LogStream
from hostmanager_client.reconnect import OnConnection, ignore
from hostmanager_client.streams import Item, Stream

_QUEUED = 1000  # lines between the threads and the reader
_POLL = 0.5  # s between looks of a thread, whose line has no room, at the end of the reading

Follow = Callable[[LogStream], Generator[pb.LogLine]]
OnLogError = Callable[[str, HostManagerError], None]
_Message = tuple[str, "pb.LogLine | BaseException | None"]  # None: caught up


class LogCalls:
    """The calls that read output, of the blocking client."""

    _timeout: float | None

    def _follow(
        self, stream: Stream[Item], on_connection: OnConnection, deadline: float | None = None
    ) -> Generator[Item]:
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
    ) -> Generator[pb.LogLine]:
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
    ) -> Generator[InstanceLine]:
        """Yield the lines of several instances by their times, then with `follow` new lines as they come.

        Each instance has at most `lines` lines, all together 100,000. `on_error` gets the id and the error of
        an instance that cannot be read, and the others continue; None: the error is raised. Other arguments
        as in `tail_logs`.
        """
        ids = list(dict.fromkeys(instance_ids))
        query = share(LogQuery(lines, follow, since, until, previous), ids)
        streams = {each: self._log_stream(each, query) for each in ids}
        return read_merged(streams, lambda stream: self._follow(stream, on_connection), on_error)

    def tail_daemon_log(
        self, *, lines: int | None = None, follow: bool = False, on_connection: OnConnection = ignore
    ) -> Generator[pb.LogLine]:
        """Yield the last lines of the daemon's own log, as `tail_logs` does for an instance.

        Raises PreconditionFailed, with the command that shows the log, if systemd keeps the log.
        """
        return self._follow(self._log_stream(None, LogQuery(lines, follow)), on_connection)

    def _log_stream(self, instance_id: str | None, query: LogQuery) -> LogStream:
        return LogStream(instance_id, query, silence=self._timeout or PLAIN_TIMEOUT)


def read_merged(
    streams: dict[str, LogStream], follow: Follow, on_error: OnLogError | None
) -> Generator[InstanceLine]:
    """Yield the lines of all streams; `follow` yields those of one.

    An error of one stream goes to `on_error`, and the others continue; without `on_error` it is raised.
    """
    readers = _Readers(streams, follow)
    merge = LogMerge(streams)
    try:
        readers.start()
        while readers.threads:
            message = readers.next_message(PATIENCE if merge.holds_lines else None)
            if message is None:
                yield from merge.release()
                continue
            instance_id, found = message
            if isinstance(found, pb.LogLine):
                yield from merge.add(instance_id, found)
            elif found is None:
                yield from merge.caught_up(instance_id)
            elif isinstance(found, HostManagerError) and on_error is not None:
                on_error(instance_id, found)
            else:
                raise found
    finally:
        readers.stop()


class _Readers:
    """One thread for each stream that is read now, and the queue of their lines."""

    def __init__(self, streams: dict[str, LogStream], follow: Follow) -> None:
        self._streams = streams
        self._follow = follow
        self._queue: queue.Queue[_Message | None] = queue.Queue(_QUEUED)  # None: a thread has ended
        self._todo = iter(list(streams.items()))
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.threads = 0

    def start(self) -> None:
        """Start the threads. Streams that follow never end, so each needs one of its own."""
        following = any(stream.reconnects for stream in self._streams.values())
        count = len(self._streams) if following else min(MOST_READERS, len(self._streams))
        for _ in range(count):
            threading.Thread(target=self._run, name="hostmanager-logs", daemon=True).start()
            self.threads += 1

    def next_message(self, patience: float | None) -> _Message | None:
        """Wait for what a thread reads; return None after `patience` s, and when the last thread ends."""
        while self.threads:
            try:
                message = self._queue.get(timeout=patience)
            except queue.Empty:
                return None
            if message is not None:
                return message
            self.threads -= 1
        return None

    def stop(self) -> None:
        """End the threads soon, without waiting for them."""
        self._stopping.set()
        for stream in self._streams.values():
            stream.cancel()

    def _run(self) -> None:
        while True:
            with self._lock:
                task = None if self._stopping.is_set() else next(self._todo, None)
            if task is None:
                self._put(None)
                return
            self._read(*task)

    def _read(self, instance_id: str, stream: LogStream) -> None:
        stream.on_caught_up = lambda: self._put((instance_id, None))
        try:
            for line in self._follow(stream):
                if not self._put((instance_id, line)):
                    return
        except BaseException as error:  # raised by the reader, on its thread
            self._put((instance_id, error))
        self._put((instance_id, None))

    def _put(self, message: _Message | None) -> bool:
        """Hand a message to the reader; return False if the reader has left."""
        while not self._stopping.is_set():
            try:
                self._queue.put(message, timeout=_POLL)
            except queue.Full:
                continue
            return True
        return False
