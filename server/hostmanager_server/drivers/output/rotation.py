"""The thread that rotates output files in time, and sleeps while nobody writes."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass

from inotify_simple import INotify, flags

from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.linux.thread_names import name_this_thread

_log = logging.getLogger(__name__)

# A file that is written to is looked at again when half of the time has passed in which, at the rate seen, it
# would reach its size; within these bounds, in seconds.
SHORTEST_WAIT = 0.2
LONGEST_WAIT = 10.0
# How long a file that is to be tracked waits for others, in seconds: this thread is not to compete with a
# daemon that starts hundreds of agents.
GATHER = 0.25
# After a failure (a full disk): 10 s, doubling to this.
LONGEST_RETRY = 320.0


@dataclass(slots=True, eq=False)
class _Entry:
    stream: OutputStream
    policy: LogPolicy
    end: int | None = None  # position after the last byte, when last looked at
    looked: float = 0.0
    due: float | None = None  # of the next look; None: its watch, if any, will tell
    failures: int = 0


class Rotator:
    """One lazily started thread for all files: it costs nothing while nothing is written.

    A quiet file has a one-shot inotify watch. The first write ends the watch, so a busy file causes no
    events: from then on its size is looked at by the clock, until a look finds that nothing was written.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inbox: deque[tuple[OutputStream, LogPolicy | None]] = deque()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closing = False
        self._woken = False
        self._gather = threading.Event()  # set: there is nothing more to wait for
        self._entries: dict[OutputStream, _Entry] = {}
        self._watched: dict[int, _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        self._order = itertools.count()
        self._inotify: INotify | None = None
        self._said: set[str] = set()

    def track(self, stream: OutputStream, policy: LogPolicy) -> None:
        """Rotate this file from now on, by this policy. Returns at once; any thread may call."""
        self._post(stream, policy)

    def forget(self, stream: OutputStream) -> None:
        """Rotate it no more. Returns at once; any thread may call."""
        self._post(stream, None)

    def close(self) -> None:
        """End the thread; a rotation that is under way is finished first. A second call changes nothing."""
        with self._lock:
            self._closing = True
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._gather.set()
            os.eventfd_write(self._wake, 1)
        thread.join()
        os.close(self._wake)
        self._wake = -1

    def _post(self, stream: OutputStream, policy: LogPolicy | None) -> None:
        with self._lock:
            if self._closing:
                return
            self._inbox.append((stream, policy))
            if self._thread is None and not self._start():
                return
            if not self._woken:
                self._woken = True
                os.eventfd_write(self._wake, 1)

    def _start(self) -> bool:
        """Start the thread; whether that could be done. What is posted waits for it."""
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            thread = threading.Thread(target=self._run, name="log-rotation", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:  # no descriptors, no threads
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1
            self._say(
                "start", f"cannot rotate output files: {error}; trying again with the next start of an agent"
            )
            return False
        self._thread = thread
        return True

    # -- the thread

    def _run(self) -> None:
        name_this_thread("log-rotation")
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        try:
            self._inotify = INotify()
            poller.register(self._inotify.fileno(), select.POLLIN)
        except OSError as error:
            self._say_unwatched(error)
        try:
            while not self._closing:
                for fd, _ in poller.poll(self._time_out()):
                    if fd == self._wake:
                        os.eventfd_read(self._wake)
                        self._gather.wait(GATHER)
                        self._drain()
                    else:
                        self._written()
                self._look_at_due()
        finally:
            if self._inotify is not None:
                self._inotify.close()

    def _time_out(self) -> float | None:
        """Milliseconds until the next look; None: until something happens."""
        while self._due and self._due[0][2].due != self._due[0][0]:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - time.monotonic()) * 1000.0 + 1.0 if self._due else None

    def _drain(self) -> None:
        with self._lock:
            self._woken = False  # whatever is posted from now on wakes the thread again
        while self._inbox:
            stream, policy = self._inbox.popleft()
            if policy is None:
                entry = self._entries.pop(stream, None)
                if entry is not None:
                    entry.due = None
                continue
            entry = self._entries.setdefault(stream, _Entry(stream, policy))
            entry.policy = policy
            entry.end = None
            self._look_at(entry)

    def _written(self) -> None:
        assert self._inotify is not None
        now = time.monotonic()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                for entry in self._entries.values():
                    if entry.due is None:
                        self._look_later(entry, SHORTEST_WAIT)
            elif event.mask & flags.IGNORED:
                self._watched.pop(event.wd, None)
            elif (written := self._watched.get(event.wd)) is not None and written.due is None:
                written.looked = now
                self._look_later(written, SHORTEST_WAIT)

    def _look_at_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now and not self._closing:
            due, _, entry = heapq.heappop(self._due)
            if entry.due == due:
                entry.due = None
                self._look_at(entry)

    def _look_later(self, entry: _Entry, seconds: float) -> None:
        if self._entries.get(entry.stream) is entry:
            entry.due = time.monotonic() + seconds
            heapq.heappush(self._due, (entry.due, next(self._order), entry))

    def _look_at(self, entry: _Entry) -> None:
        try:
            self._rotate(entry)
        except OSError as error:
            if os.path.lexists(entry.stream.path):  # else removed by hand; the next start makes a new one
                self._failed(entry, error)

    def _rotate(self, entry: _Entry) -> None:
        stream, policy = entry.stream, entry.policy
        first = entry.end is None
        if first:
            stream.prune(policy.keep)
        live = stream.live_size()
        if live is None:
            return
        if live > policy.size:
            if not stream.rotate(policy.size, policy.keep):
                self._say(
                    str(stream.path.parent),
                    f"cannot rotate {stream.path}: its file system can free no part of a file (fallocate);"
                    " nothing is lost, but output files there grow without bound:"
                    " set 'log-dir' to a directory on ext4, xfs, btrfs or tmpfs",
                )
                del self._entries[stream]
                return
            live = stream.live_size() or 0
        if entry.failures:
            entry.failures = 0
            _log.info("rotating %s again", stream.path)
        now, end = time.monotonic(), stream.end()
        grown = 0 if entry.end is None else end - entry.end
        elapsed = now - entry.looked
        entry.end, entry.looked = end, now
        if grown > 0:
            left = max(0, policy.size - live)
            self._look_later(entry, min(max(left * elapsed / grown / 2, SHORTEST_WAIT), LONGEST_WAIT))
        else:
            self._watch(entry)

    def _watch(self, entry: _Entry) -> None:
        wait = LONGEST_WAIT
        if self._inotify is not None:
            try:
                fd = entry.stream.open_live()
            except FileNotFoundError:
                return
            try:  # by descriptor: the path may be a link by now
                wd = self._inotify.add_watch(f"/proc/self/fd/{fd}", flags.MODIFY | flags.ONESHOT)
            except OSError as error:
                self._say_unwatched(error)
            else:
                self._watched[wd] = entry
                if entry.stream.end() == entry.end:
                    return
                wait = SHORTEST_WAIT  # written to before the watch was there
            finally:
                os.close(fd)
        self._look_later(entry, wait)

    def _failed(self, entry: _Entry, error: OSError) -> None:
        wait = min(LONGEST_WAIT * 2.0**entry.failures, LONGEST_RETRY)
        if entry.failures == 0:
            _log.warning(
                "cannot rotate %s, which goes on growing: %s; trying again in %.0f s, then more rarely",
                entry.stream.path,
                error,
                wait,
            )
        entry.failures = min(entry.failures + 1, 16)
        self._look_later(entry, wait)

    def _say_unwatched(self, error: OSError) -> None:
        self._say(
            "inotify",
            f"cannot watch output files for writes ({error}): looking at them every"
            f" {LONGEST_WAIT:.0f} s instead; raise fs.inotify.max_user_watches"
            " or fs.inotify.max_user_instances",
        )

    def _say(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            _log.warning("%s", message)
