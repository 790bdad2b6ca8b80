"""Removed output files that a process still has open, found by inotify."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from inotify_simple import INotify, flags

from hostmanager_server.drivers.output.stream import OutputStream

# A file without a process that has it open ends right after its removal: s to wait for that.
_END_FOLLOWS = 0.02


class RemovalWatch:
    """Watches the link counts of output files; one thread may use an object.

    A watch belongs to an inode, and ends when no directory and no process has the inode.
    """

    def __init__(self) -> None:
        self._inotify: INotify | None = None
        self._registered = False
        self._streams: dict[int, OutputStream] = {}  # by watch
        self._watches: dict[OutputStream, set[int]] = {}

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with a removal; -1 before the first watch."""
        return -1 if self._inotify is None else self._inotify.fileno()

    def register(self, poller: select.poll) -> None:
        """Poll the descriptor, once there is one."""
        if self._inotify is not None and not self._registered:
            self._registered = True
            poller.register(self._inotify.fileno(), select.POLLIN)

    def watch(self, stream: OutputStream, fd: int) -> None:
        """Watch the live file of a stream, open as `fd`; without watches left, a removal stays unnoticed."""
        with suppress(OSError):
            if self._inotify is None:
                self._inotify = INotify()
            # By descriptor, as an agent may have put a link at the path.
            watch = self._inotify.add_watch(f"/proc/self/fd/{fd}", flags.ATTRIB | flags.DELETE_SELF)
            self._streams[watch] = stream
            self._watches.setdefault(stream, set()).add(watch)

    def forget(self, stream: OutputStream) -> None:
        """Stop watching the files of a stream."""
        for watch in self._watches.pop(stream, ()):
            self._streams.pop(watch, None)
            if self._inotify is not None:
                with suppress(OSError):
                    self._inotify.rm_watch(watch)

    def removed(self) -> list[OutputStream]:
        """Return the streams whose live file is gone while a process has one of their files open."""
        assert self._inotify is not None
        time.sleep(_END_FOLLOWS)  # on the thread of the rotation, only after a removal
        changed: dict[OutputStream, None] = {}
        for event in self._inotify.read(timeout=0):
            stream = self._streams.get(event.wd)
            if stream is None:
                continue
            changed[stream] = None
            if event.mask & (flags.IGNORED | flags.DELETE_SELF):
                del self._streams[event.wd]
                self._watches.get(stream, set()).discard(event.wd)
        return [each for each in changed if self._watches.get(each) and not os.path.lexists(each.path)]

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
