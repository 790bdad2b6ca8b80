"""Reading an instance's output on an asyncio loop: the last lines, and then what is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress

from inotify_simple import INotify, flags

from hostmanager_server.drivers.log_lines import LineAssembler, LogLine, start_of_last
from hostmanager_server.drivers.log_stream import LogStream

_log = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024
BATCH_LINES = 500
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


class WriteWatches:
    """The write watch of each event loop that has followers."""

    def __init__(self) -> None:
        self._watches: dict[asyncio.AbstractEventLoop, WriteWatch] = {}

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
    stream: LogStream, watches: WriteWatches, lines: int, follow: bool
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
    watch = watches.enter()
    stream.subscribe(wake)
    try:
        end = await asyncio.to_thread(stream.end)
        position = await asyncio.to_thread(start_of_last, stream.read_before, end, lines)
        armed, watched = False, True
        while follow or position < end:
            limit = BATCH_BYTES if follow else min(BATCH_BYTES, end - position)
            extent = await asyncio.to_thread(stream.read, position, limit)
            if extent.skipped:
                yield [*assembler.flush(continues=False), _skipped(extent.skipped)]
            position = extent.start + len(extent.data)
            if extent.data:
                armed = False
                found = assembler.feed(extent.data)
                for first in range(0, len(found), BATCH_LINES):
                    yield found[first : first + BATCH_LINES]
            elif not follow:
                break
            elif not armed:  # and read once more, for what was written before
                armed = True
                changed.clear()
                fd = await asyncio.to_thread(stream.live_descriptor)
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
        watches.leave(watch, changed)
        stream.release()


def _skipped(count: int) -> LogLine:
    return LogLine(
        f"[hostmanager: {count} bytes are missing here: rotated away or truncated before they were read]"
    )
