"""Asynchronous readers of an instance's output: the last lines, and then new lines."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from inotify_simple import INotify, flags

from hostmanager_server.drivers.output.line_clock import LineClock
from hostmanager_server.drivers.output.lines import LastLines, LineAssembler, LogLine
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.drivers.output.wanted_lines import WantedLines
from hostmanager_server.linux.thread_names import name_this_thread

T = TypeVar("T")

_log = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024
BATCH_LINES = 500
THREADS = 2
_THREAD = "log-reader"
QUIET = 1.0  # seconds without a write after which a reader gets a partial line
_COALESCE = 0.02  # seconds between a write and the read, so that a chatty writer costs few reads
_UNWATCHED = 1.0  # seconds between reads when no inotify watches are left


class WriteWatch:
    """One inotify instance that wakes the followers of an event loop at writes to their files.

    All followers share the instance, as a user may have only 128.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the inotify instance; log a warning if none is left."""
        self.followers = 0
        self._loop = loop
        self._inotify: INotify | None = None
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._warned = False
        try:
            self._inotify = INotify()
        except OSError as error:
            self._warn_once(error)
        else:
            loop.add_reader(self._inotify.fileno(), self._handle_writes)

    def close(self) -> None:
        """Close the inotify instance."""
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def disarm(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        for waiting in self._waiting.values():
            waiting.discard(event)

    def arm(self, fd: int, event: asyncio.Event) -> bool:
        """Set `event` once, at the next write to this file; return False if no watches are left."""
        if self._inotify is None:
            return False
        try:  # by descriptor, as the path may name another file by now
            wd = self._inotify.add_watch(f"/proc/self/fd/{fd}", flags.MODIFY | flags.ONESHOT)
        except OSError as error:
            self._warn_once(error)
            return False
        self._waiting.setdefault(wd, set()).add(event)
        return True

    def _handle_writes(self) -> None:
        assert self._inotify is not None
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                for waiting in self._waiting.values():
                    for follower in waiting:
                        follower.set()
            for follower in self._waiting.pop(event.wd, ()):
                follower.set()

    def _warn_once(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "cannot watch output files for their followers (%s): reading every %.0f s instead;"
                " raise fs.inotify.max_user_watches or fs.inotify.max_user_instances",
                error,
                _UNWATCHED,
            )


class Readers:
    """The threads that read output, and the write watch of each event loop with followers.

    All readers of output share one instance.
    """

    def __init__(self) -> None:
        """Start no thread before the first read."""
        self._watches: dict[asyncio.AbstractEventLoop, WriteWatch] = {}
        self._threads: ThreadPoolExecutor | None = None  # None before the first read

    async def run(self, job: Callable[..., T], *arguments: Any) -> T:
        """Run a job on one of the threads and return its result.

        The threads only read output, so a slow disk delays no other work. Each job reads one block, so
        readers of large output alternate with readers of small output.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, _THREAD, name_this_thread, (_THREAD,))
        return await asyncio.get_running_loop().run_in_executor(self._threads, job, *arguments)

    def close(self) -> None:
        """End the threads without waiting for them."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def enter(self) -> WriteWatch:
        """Return the running loop's watch, for one more follower."""
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = WriteWatch(loop)
        watch.followers += 1
        return watch

    def leave(self, watch: WriteWatch, event: asyncio.Event) -> None:
        """Remove the follower that waits for `event`; the last follower closes the watch."""
        watch.disarm(event)
        watch.followers -= 1
        if watch.followers == 0:
            del self._watches[asyncio.get_running_loop()]
            watch.close()


class RunWindow:
    """The part of an output that one run writes.

    The reader sets `opened` at the place where the run will begin. The caller sets `ended` after the end of
    the run; the reader then ends at the end of the file.
    """

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()


async def read_lines(
    stream: OutputStream, readers: Readers, wanted: WantedLines, *, window: RunWindow | None = None
) -> AsyncGenerator[list[LogLine], None]:
    """Yield the wanted lines of the kept output, then with `follow` all new lines, until closed.

    No line is lost or repeated in between, nor across a rotation. Bytes that were dropped before a slow
    reader got to them are reported by a line in their place. A batch has at most 500 lines from at most
    64 KiB of output; the reader reads no further before the caller takes the batch. With `follow`, the
    reader waits for a file that does not exist yet; an empty batch comes once, after the last line that
    existed before. With `window`, the reader ends with a run. Raises NoSuchRunError, RefusedFileError and
    other OSErrors.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed and has no reader left
            loop.call_soon_threadsafe(changed.set)

    stream.acquire()
    watch = readers.enter()
    stream.subscribe(wake)
    try:
        tail = _Tail(stream, readers, watch, changed, follow=wanted.follow, window=window)
        await tail.find_start(wanted)
        if window is not None:
            window.opened.set()
        announced = False
        while (found := await tail.next_lines()) is not None:
            while found:
                yield _take(found)  # a stalled reader holds the rest, and no more
            if tail.caught_up and not announced:
                announced = True
                yield []
    finally:
        stream.unsubscribe(wake)
        readers.leave(watch, changed)
        stream.release()


class _Tail:
    """The position of one reader in a stream, and its wait for new bytes."""

    def __init__(
        self, stream: OutputStream, readers: Readers, watch: WriteWatch, changed: asyncio.Event, *,
        follow: bool, window: RunWindow | None = None,
    ) -> None:  # fmt: skip
        self._stream = stream
        self._readers = readers
        self._watch = watch
        self._changed = changed
        self._follow = follow
        self._window = window
        self._assembler = LineAssembler()
        self._clock = LineClock(stream)
        self.caught_up = False  # all bytes of before were read
        self._fresh = False  # the reader waits for the bytes of the next read
        self._position = self._end = 0
        self._armed = False  # a read since the last write found no bytes, and the watch is set
        self._watched = True  # the watch works
        self._finished = False

    async def find_start(self, wanted: WantedLines) -> None:
        """Move to the beginning of the last wanted lines."""
        self._end = await self._readers.run(self._stream.end)
        first, last = await self._readers.run(self._clock.range, wanted)
        if last is not None:
            self._end = min(self._end, last)
        if first is not None and first >= self._end:
            self._position = self._end
            return
        search = LastLines(_not_before(first, self._stream), self._end, wanted.lines)
        while (start := await self._readers.run(search.step)) is None:
            pass
        self._position = start

    async def next_lines(self) -> list[LogLine] | None:
        """Read one block, or wait for a write; return the complete lines, perhaps none. None: the end."""
        if self._finished:
            return None
        if self._follow or self._position < self._end:
            over = self._window is not None and self._window.ended.is_set()
            limit = BATCH_BYTES if self._follow else min(BATCH_BYTES, self._end - self._position)
            self._position, found = await self._readers.run(
                functools.partial(_read, fresh=self._fresh),
                self._stream, self._assembler, self._clock, self._position, limit,
            )  # fmt: skip
            self._fresh = found is None
            if found is not None:
                self._armed = False
                return found
            if self._follow and not over:
                return await (self._wait() if self._armed else self._arm())
        self._finished = True
        return self._assembler.flush(continues=False)

    async def _arm(self) -> list[LogLine]:
        """Set the watch. The caller reads once more, for bytes written before."""
        self._armed = self.caught_up = True
        self._changed.clear()
        fd = await self._readers.run(self._stream.live_descriptor)
        self._watched = fd < 0 or self._watch.arm(fd, self._changed)
        return []

    async def _wait(self) -> list[LogLine]:
        """Wait for a write; return a partial line after a quiet time."""
        patience = QUIET if self._assembler.holds_partial_line else None if self._watched else _UNWATCHED
        try:
            async with asyncio.timeout(patience):
                await self._woken()
            await asyncio.sleep(_COALESCE)
            self._armed = False
        except TimeoutError:
            self._armed = self._watched
            return self._assembler.flush(continues=True)
        return []

    async def _woken(self) -> None:
        """Wait for a write, or for the end of the run."""
        if self._window is None:
            await self._changed.wait()
            return
        waits = [asyncio.ensure_future(each.wait()) for each in (self._changed, self._window.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()


def _read(
    stream: OutputStream, assembler: LineAssembler, clock: LineClock, position: int, limit: int, *,
    fresh: bool,
) -> tuple[int, list[LogLine] | None]:  # fmt: skip
    """Return the next position and the lines complete by then, or None in their place at the end."""
    extent = stream.read(position, limit)
    lines: list[LogLine] = []
    if extent.skipped:
        lines += [*assembler.flush(continues=False), _skip_notice(extent.skipped)]
    if extent.data:
        lines += clock.feed(assembler, extent, fresh=fresh)
    return extent.start + len(extent.data), lines if extent.data or extent.skipped else None


def _not_before(first: int | None, stream: OutputStream) -> Callable[[int, int], bytes]:
    """Return `read_before` of the stream, which ends at the position `first`."""
    if first is None:
        return stream.read_before
    return lambda position, limit: stream.read_before(position, max(0, min(limit, position - first)))


def _take(lines: list[LogLine]) -> list[LogLine]:
    """Remove and return the next batch of the lines."""
    batch = lines[:BATCH_LINES]
    del lines[:BATCH_LINES]
    return batch


def _skip_notice(count: int) -> LogLine:
    return LogLine(
        f"[hostmanager: {count} bytes are missing here: rotated away or truncated before they were read]"
    )
