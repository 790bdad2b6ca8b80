"""Reading an instance's output on an asyncio loop: the last lines, and then what is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from inotify_simple import INotify, flags

from hostmanager_server.drivers.output.lines import LastLines, LineAssembler, LogLine
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.linux.thread_names import name_this_thread

T = TypeVar("T")

_log = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024
BATCH_LINES = 500
THREADS = 2
_THREAD = "log-reader"
QUIET = 1.0  # seconds after which the part of a line that was written is shown
_COALESCE = 0.02  # seconds between a write and the read, so that a chatty writer costs few reads
_UNWATCHED = 1.0  # seconds between looks when there are no inotify watches left


class WriteWatch:
    """Wakes the followers on one event loop when their file is written to. One inotify instance for all of
    them: a user has only 128."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.followers = 0
        self._loop = loop
        self._inotify: INotify | None = None
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._said = False
        try:
            self._inotify = INotify()
        except OSError as error:
            self._say(error)
        else:
            loop.add_reader(self._inotify.fileno(), self._written)

    def close(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def disarm(self, event: asyncio.Event) -> None:
        for waiting in self._waiting.values():
            waiting.discard(event)

    def arm(self, fd: int, event: asyncio.Event) -> bool:
        """Set `event` once, at the next write to this file. False: there are no watches left."""
        if self._inotify is None:
            return False
        try:  # by descriptor: its path may be another file's, or nobody's, by now
            wd = self._inotify.add_watch(f"/proc/self/fd/{fd}", flags.MODIFY | flags.ONESHOT)
        except OSError as error:
            self._say(error)
            return False
        self._waiting.setdefault(wd, set()).add(event)
        return True

    def _written(self) -> None:
        assert self._inotify is not None
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                for waiting in self._waiting.values():
                    for follower in waiting:
                        follower.set()
            for follower in self._waiting.pop(event.wd, ()):
                follower.set()

    def _say(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            _log.warning(
                "cannot watch output files for their followers (%s): looking every %.0f s instead;"
                " raise fs.inotify.max_user_watches or fs.inotify.max_user_instances",
                error,
                _UNWATCHED,
            )


class Readers:
    """What all readers of output share: threads that read, and the write watch of each event loop that has
    followers."""

    def __init__(self) -> None:
        self._watches: dict[asyncio.AbstractEventLoop, WriteWatch] = {}
        self._threads: ThreadPoolExecutor | None = None  # none as long as there is nothing to read

    async def run(self, job: Callable[..., T], *arguments: Any) -> T:
        """The outcome of a job, which is done on one of the threads.

        The threads are for this alone: a slow disk does not keep other work waiting. Each job reads one
        block, so that a reader of much waits its turn among those of little.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, _THREAD, name_this_thread, (_THREAD,))
        return await asyncio.get_running_loop().run_in_executor(self._threads, job, *arguments)

    def close(self) -> None:
        """End the threads, without waiting for them."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def enter(self) -> WriteWatch:
        """The running loop's watch, for one more follower."""
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = WriteWatch(loop)
        watch.followers += 1
        return watch

    def leave(self, watch: WriteWatch, event: asyncio.Event) -> None:
        """The follower that waited for `event` is gone; the last one closes the watch."""
        watch.disarm(event)
        watch.followers -= 1
        if watch.followers == 0:
            del self._watches[asyncio.get_running_loop()]
            watch.close()


async def read_lines(
    stream: OutputStream, readers: Readers, lines: int, follow: bool
) -> AsyncGenerator[list[LogLine], None]:
    """The last `lines` lines of what is kept, and with `follow` then all that is written, until it is closed.

    Nothing is lost or repeated in between, nor when the file is rotated meanwhile; what was dropped before
    a slow reader got to it is said in a line of its own. Batches have at most 500 lines of at most 64 KiB
    of output; the next is not read before this one is taken. With `follow`, a file that does not exist yet
    is waited for. Raises OSError, RefusedFileError among them.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(changed.set)

    assembler = LineAssembler()
    stream.acquire()
    watch = readers.enter()
    stream.subscribe(wake)
    try:
        end = await readers.run(stream.end)
        search = LastLines(stream.read_before, end, lines)
        while (start := await readers.run(search.step)) is None:
            pass
        position = start
        armed, watched = False, True
        while follow or position < end:
            limit = BATCH_BYTES if follow else min(BATCH_BYTES, end - position)
            position, found = await readers.run(_read, stream, assembler, position, limit)
            if found is not None:
                armed = False
                while found:
                    yield _take(found)  # a reader that stalls holds what is left, and no more
            elif not follow:
                break
            elif not armed:  # and read once more, for what was written before
                armed = True
                changed.clear()
                fd = await readers.run(stream.live_descriptor)
                watched = fd < 0 or watch.arm(fd, changed)
            else:
                patience = QUIET if assembler.holds_a_part else None if watched else _UNWATCHED
                try:
                    async with asyncio.timeout(patience):
                        await changed.wait()
                    await asyncio.sleep(_COALESCE)
                    armed = False
                except TimeoutError:
                    armed = watched
                    if part := assembler.flush(continues=True):
                        yield part
        if rest := assembler.flush(continues=False):
            yield rest
    finally:
        stream.unsubscribe(wake)
        readers.leave(watch, changed)
        stream.release()


def _read(
    stream: OutputStream, assembler: LineAssembler, position: int, limit: int
) -> tuple[int, list[LogLine] | None]:
    """Where to go on from, and the lines that are complete by then; None: there is no more to read."""
    extent = stream.read(position, limit)
    lines: list[LogLine] = []
    if extent.skipped:
        lines += [*assembler.flush(continues=False), _skipped(extent.skipped)]
    lines += assembler.feed(extent.data)
    return extent.start + len(extent.data), lines if extent.data or extent.skipped else None


def _take(lines: list[LogLine]) -> list[LogLine]:
    """The next batch, which is removed from the lines."""
    batch = lines[:BATCH_LINES]
    del lines[:BATCH_LINES]
    return batch


def _skipped(count: int) -> LogLine:
    return LogLine(
        f"[hostmanager: {count} bytes are missing here: rotated away or truncated before they were read]"
    )
