"""Timely rotation of output files, by one thread that sleeps while no process writes."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque

from hostmanager.values import dataclass
from inotify_simple import INotify, flags

from hostmanager_server.core.spec import LogPolicy
from hostmanager_server.drivers.output.removals import RemovalWatch
from hostmanager_server.drivers.output.stream import OutputStream
from hostmanager_server.linux.thread_names import name_this_thread

_log = logging.getLogger(__name__)

# The thread inspects a growing file again after half the time in which, at the observed rate, the file would
# reach its size; within these bounds, in seconds.
SHORTEST_WAIT = 0.2
LONGEST_WAIT = 10.0
# The times of lines are known from inspections of the growing files: this many in a second at most, and one
# of each file in TIMES_WAIT s.
TIMES_WAIT = 1.0
INSPECTIONS_PER_SECOND = 50
# The delay, in seconds, before the thread handles new files, which collects the files of many starts: the
# thread must not compete with a daemon that starts hundreds of agents.
START_DELAY = 0.25
# The longest wait, in seconds, after a failure (a full disk); the first is LONGEST_WAIT, then doubled.
LONGEST_RETRY = 320.0


def _notice() -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return (
        f"[hostmanager: this file was removed at {at} UTC while its process runs, and was made again; the "
        "process writes on to the removed file: restart the instance, and it writes here]\n"
    )


@dataclass(slots=True, eq=False)
class _Entry:
    """One file of the rotator, and the state of its inspections."""

    stream: OutputStream
    policy: LogPolicy
    end: int | None = None  # position after the last byte at the last inspection
    inspected: float = 0.0  # time of the last inspection, monotonic
    due: float | None = None  # time of the next inspection; None: the inotify watch, if any, triggers it
    failures: int = 0


class Rotator:
    """The rotation of all files, by one lazily started thread that uses no CPU time while all are quiet.

    A quiet file has a one-shot inotify watch. The first write ends the watch, so a busy file causes no
    events: from then on a timer inspects its size, until an inspection finds no new bytes.
    """

    def __init__(self) -> None:
        """Start no thread before the first file."""
        self._lock = threading.Lock()
        self._messages: deque[tuple[OutputStream, LogPolicy | None]] = deque()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closing = False
        self._wake_sent = False
        self._skip_delay = threading.Event()  # set by `close`: handle messages without START_DELAY
        self._entries: dict[OutputStream, _Entry] = {}
        self._watched: dict[int, _Entry] = {}
        self._due: list[tuple[float, int, _Entry]] = []
        self._order = itertools.count()
        self._inotify: INotify | None = None
        self._warned: set[str] = set()
        self._removals = RemovalWatch()

    def track(self, stream: OutputStream, policy: LogPolicy) -> None:
        """Rotate this file from now on, by this policy; return at once. Any thread may call."""
        self._post(stream, policy)

    def forget(self, stream: OutputStream) -> None:
        """Stop rotating this file; return at once. Any thread may call."""
        self._post(stream, None)

    def close(self) -> None:
        """End the thread after the present rotation. A second call changes nothing."""
        with self._lock:
            self._closing = True
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._skip_delay.set()
            os.eventfd_write(self._wake, 1)
        thread.join()
        os.close(self._wake)
        self._wake = -1

    def _post(self, stream: OutputStream, policy: LogPolicy | None) -> None:
        with self._lock:
            if self._closing:
                return
            self._messages.append((stream, policy))
            if self._thread is None and not self._start():
                return
            if not self._wake_sent:
                self._wake_sent = True
                os.eventfd_write(self._wake, 1)

    def _start(self) -> bool:
        """Start the thread and return whether that worked; messages wait for the next attempt."""
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            thread = threading.Thread(target=self._run, name="log-rotation", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:  # out of descriptors or threads
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1
            self._warn_once(
                "start", f"cannot rotate output files: {error}; trying again with the next start of an agent"
            )
            return False
        self._thread = thread
        return True

    # --- on the rotation thread

    def _run(self) -> None:
        name_this_thread("log-rotation")
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        try:
            self._inotify = INotify()
            poller.register(self._inotify.fileno(), select.POLLIN)
        except OSError as error:
            self._warn_unwatched(error)
        try:
            while not self._closing:
                self._removals.register(poller)
                for fd, _ in poller.poll(self._time_out()):
                    if fd == self._wake:
                        os.eventfd_read(self._wake)
                        self._skip_delay.wait(START_DELAY)
                        self._handle_messages()
                    elif fd == self._removals.fileno():
                        self._restore_removed()
                    else:
                        self._handle_writes()
                self._inspect_due()
        finally:
            if self._inotify is not None:
                self._inotify.close()
            self._removals.close()

    def _restore_removed(self) -> None:
        """Make files again that were removed while a process has them open."""
        for stream in self._removals.removed():
            entry = self._entries.get(stream)
            if entry is None:
                continue
            try:
                if not stream.restore(_notice()):
                    continue
            except OSError as error:
                _log.warning("cannot make the removed output file %s again: %s", stream.path, error)
                continue
            _log.warning(
                "%s was removed while its process runs, and was made again; the process writes on to the "
                "removed file until the instance is restarted",
                stream.path,
            )
            entry.end = None
            self._inspect(entry)

    def _time_out(self) -> float | None:
        """Return the milliseconds until the next inspection, or None for no limit."""
        while self._due and self._due[0][2].due != self._due[0][0]:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - time.monotonic()) * 1000.0 + 1.0 if self._due else None

    def _handle_messages(self) -> None:
        with self._lock:
            self._wake_sent = False  # the next message wakes the thread again
        while self._messages:
            stream, policy = self._messages.popleft()
            if policy is None:
                entry = self._entries.pop(stream, None)
                if entry is not None:
                    entry.due = None
                self._removals.forget(stream)
                continue
            entry = self._entries.setdefault(stream, _Entry(stream, policy))
            entry.policy = policy
            entry.end = None
            self._inspect(entry)

    def _handle_writes(self) -> None:
        assert self._inotify is not None
        now = time.monotonic()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                for entry in self._entries.values():
                    if entry.due is None:
                        self._schedule(entry, SHORTEST_WAIT)
            elif event.mask & flags.IGNORED:
                self._watched.pop(event.wd, None)
            elif (written := self._watched.get(event.wd)) is not None and written.due is None:
                written.inspected = now
                self._schedule(written, SHORTEST_WAIT)

    def _inspect_due(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now and not self._closing:
            due, _, entry = heapq.heappop(self._due)
            if entry.due == due:
                entry.due = None
                self._inspect(entry)

    def _schedule(self, entry: _Entry, seconds: float) -> None:
        if self._entries.get(entry.stream) is entry:
            entry.due = time.monotonic() + seconds
            heapq.heappush(self._due, (entry.due, next(self._order), entry))

    def _inspect(self, entry: _Entry) -> None:
        try:
            self._rotate(entry)
        except OSError as error:
            # Otherwise an operator removed the file, and the next start creates a new one.
            if os.path.lexists(entry.stream.path):
                self._handle_failure(entry, error)

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
                self._warn_once(
                    str(stream.path.parent),
                    f"cannot rotate {stream.path}: its file system can free no part of a file (fallocate);"
                    " no output is lost, but output files there grow without bound:"
                    " set 'log-dir' to a directory on ext4, xfs, btrfs or tmpfs",
                )
                del self._entries[stream]
                return
            live = stream.live_size() or 0
        if entry.failures:
            entry.failures = 0
            _log.info("rotating %s again", stream.path)
        now, end = time.monotonic(), stream.observe(time.time())
        grown = 0 if entry.end is None else end - entry.end
        elapsed = now - entry.inspected
        entry.end, entry.inspected = end, now
        if grown > 0:
            left = max(0, policy.size - live)
            longest = min(max(TIMES_WAIT, len(self._due) / INSPECTIONS_PER_SECOND), LONGEST_WAIT)
            self._schedule(entry, min(max(left * elapsed / grown / 2, SHORTEST_WAIT), longest))
        else:
            self._watch(entry)

    def _watch(self, entry: _Entry) -> None:
        wait = LONGEST_WAIT
        if self._inotify is not None:
            try:
                fd = entry.stream.open_live()
            except FileNotFoundError:
                return
            try:  # by descriptor, as an agent may have put a link at the path
                wd = self._inotify.add_watch(f"/proc/self/fd/{fd}", flags.MODIFY | flags.ONESHOT)
            except OSError as error:
                self._warn_unwatched(error)
            else:
                self._watched[wd] = entry
                self._removals.watch(entry.stream, fd)
                if entry.stream.end() == entry.end:
                    return
                wait = SHORTEST_WAIT  # a process wrote before the watch existed
            finally:
                os.close(fd)
        self._schedule(entry, wait)

    def _handle_failure(self, entry: _Entry, error: OSError) -> None:
        wait = min(LONGEST_WAIT * 2.0**entry.failures, LONGEST_RETRY)
        if entry.failures == 0:
            _log.warning(
                "cannot rotate %s, which keeps growing: %s; trying again in %.0f s, then less often",
                entry.stream.path,
                error,
                wait,
            )
        entry.failures = min(entry.failures + 1, 16)
        self._schedule(entry, wait)

    def _warn_unwatched(self, error: OSError) -> None:
        self._warn_once(
            "inotify",
            f"cannot watch output files for writes ({error}): inspecting them every"
            f" {LONGEST_WAIT:.0f} s instead; raise fs.inotify.max_user_watches"
            " or fs.inotify.max_user_instances",
        )

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            _log.warning("%s", message)
