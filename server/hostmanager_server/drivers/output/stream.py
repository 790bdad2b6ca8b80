"""The output stream of one instance: one endless sequence of bytes over a live file and its archives.

Only the process of the instance appends to the live file `<name>.log`. Rotation moves the head of the live
file to `<name>.log.1` and the earlier archives to `.2` … `.keep`; the oldest archive is deleted. A head ends
at a block boundary, so a line may begin in one file and continue in the next: the archives, oldest first,
followed by the live file, hold exactly the bytes that the process wrote.

A *position* counts bytes of the stream. A byte keeps its position when rotation moves the byte from the live
file to an archive, so readers work with positions. Positions are valid for one life of the daemon.

The daemon may die at any step of a rotation. The copy of a head is named `<name>.log.copying` until complete;
the next daemon deletes such a file, as the live file still holds its bytes. From just before the removal of
the head until the copy is archive `.1`, the copy is named `<name>.log.cut.<offset>`. A hole in the live file
up to that offset then shows whether the head was removed. The daemon collapses the hole only once the copy is
`.1`, and only where the file system supports collapsing. So no byte is lost, and no byte appears twice.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.drivers.output.archives import Archives
from hostmanager_server.drivers.output.line_times import TimeTable
from hostmanager_server.drivers.output.live_file import LiveFile
from hostmanager_server.drivers.output.log_directory import LogDirectory
from hostmanager_server.drivers.output.time_index import LiveExtent, TimeIndex
from hostmanager_server.linux.fallocate import UnsupportedError, collapse_head, punch_head

_COPY_STEP = 1 << 20  # bytes per sendfile(2)


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes from position `start`; the `skipped` bytes before are in no file any longer."""

    start: int
    data: bytes
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class OutputMark:
    """The place in an output file where a run begins: `size` bytes of the file `inode` are older.

    `collapsed` counts the bytes that the stream had removed from the head of the file by then.
    """

    inode: int
    size: int
    collapsed: int = 0


class OutputStream:
    """The bytes of one instance's output, for one rotating thread and many readers.

    Thread-safe; a rotation keeps readers waiting for a few system calls at most. Every call opens the
    directory again and works on that descriptor. As agents may write to the directory, methods that use the
    live file raise RefusedFileError for a file that LogDirectory refuses, and leave such archives out.
    """

    __slots__ = (  # a daemon has thousands of these
        "_archives", "_collapses", "_directory", "_file", "_live", "_lock", "_name", "_new_runs", "_punches",
        "_readers", "_subscribers", "_times", "collapsed", "collapsing", "path", "public", "user",
    )  # fmt: skip

    def __init__(self, path: Path, user: str = "") -> None:
        """Take the path of the live file, and the agent's user as another owner of files.

        The caller may change `user` later.
        """
        self.path = path
        self.user = user
        self.public = False  # new files and directories are readable for everybody, as those of OCS are
        self._file, self._directory, self._name = str(path), str(path.parent), path.name
        self._lock = threading.Lock()
        self._archives = Archives(path)
        self._live = LiveFile(self._name, self._archives)
        self._times = TimeIndex(self._name)
        self._new_runs: deque[tuple[OutputMark, float]] = deque()  # not in the index yet
        self._punches = self._collapses = True  # until the file system refuses
        # Bytes removed from the head of the file: `collapsing` counts them before the file shrinks, and
        # `collapsed` afterwards. Read without the lock.
        self.collapsing = self.collapsed = 0
        self._readers = 0
        # Replaced and never modified, as `notify_subscribers` reads without the lock.
        self._subscribers: tuple[Callable[[], None], ...] = ()

    # --- the writer

    def open_for_append(self) -> int:
        """Open the live file for a process to inherit; create missing files and directories.

        The caller closes the descriptor.
        """
        with LogDirectory(self._directory, self.user, make=True, public=self.public) as directory:
            fd = directory.open_for_append(self._name)
        os.set_blocking(fd, True)  # the process shares it
        return fd

    def restore(self, text: str) -> bool:
        """Create the live file with this text; return False if there is one.

        Raises RefusedFileError and other OSErrors.
        """
        with LogDirectory(self._directory, self.user, make=True, public=self.public) as directory:
            if directory.exists(self._name):
                return False
            fd = directory.open_for_append(self._name)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        self.notify_subscribers()
        return True

    # --- readers

    def acquire(self) -> None:
        """Begin to read: until `release`, a removed or replaced live file stays readable."""
        with self._lock:
            self._readers += 1
            self._live.hold()

    def release(self) -> None:
        """End reading; the last reader closes the files."""
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._archives.release_removed()
                self._live.release()

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Notify `changed`, on any thread, whenever a process gets this file for its output."""
        with self._lock:
            self._subscribers = (*self._subscribers, changed)

    def unsubscribe(self, changed: Callable[[], None]) -> None:
        """Stop notifying `changed`."""
        with self._lock:
            self._subscribers = tuple(other for other in self._subscribers if other is not changed)

    def notify_subscribers(self) -> None:
        """Notify the subscribers that a process got this file for its output; never wait."""
        for changed in self._subscribers:
            changed()

    def end(self) -> int:
        """Return the position after the last byte; positions keep rising over truncation and removal."""
        with self._refreshed():
            return self._live.end

    def read(self, position: int, limit: int) -> Extent:
        """Return at most `limit` bytes from `position`, or from the next position that is still in a file.

        An extent without data means the end of the stream.
        """
        with self._refreshed() as directory:
            if archived := self._archives.read(directory, position, limit):
                start, data = archived
                return Extent(start, data, start - position)
            start = max(position, self._live.start)
            return Extent(start, self._live.read(start, limit), start - position)

    def read_before(self, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes that end just before `position`; none if no older bytes are kept."""
        with self._refreshed() as directory:
            data = self._live.read_before(position, limit)
            return self._archives.read_before(directory, position, limit) if data is None else data

    def live_descriptor(self) -> int:
        """Return the descriptor of the live file, for a watch; -1 when there is no file.

        The stream owns the descriptor; the caller must not close it.
        """
        with self._refreshed():
            return self._live.fd

    # --- times

    def add_run(self, begin: OutputMark, at: float) -> None:
        """Record that a run begins, at a time in s since 1970; return at once. Any thread may call."""
        self._new_runs.append((begin, at))

    def observe(self, now: float) -> int:
        """Return the position after the last byte, and record that it is there now (s since 1970)."""
        with self._refreshed() as directory:
            if directory is not None and (live := self._extent()) is not None:
                self._note_runs(directory, live)
                self._times.note(directory, live, now)
            return self._live.end

    def read_times(self) -> TimeTable:
        """Return the times of the lines, as far as they are known."""
        with self._refreshed() as directory:
            live = self._extent()
            if directory is not None and live is not None:
                self._note_runs(directory, live)
            return self._times.read(directory, live)

    def _note_runs(self, directory: LogDirectory, live: LiveExtent) -> None:
        while self._new_runs:
            begin, at = self._new_runs.popleft()
            if begin.inode == live.inode:
                position = self._live.position_of(begin.size - (self.collapsed - begin.collapsed))
                self._times.begin_run(directory, live, min(position, live.end), at)

    def _extent(self) -> LiveExtent | None:
        live = self._live
        if (inode := live.inode) is None:
            return None
        return LiveExtent(inode, live.start, live.end, self._archives.oldest(live.start))

    # --- rotation

    def open_live(self) -> int:
        """Open the live file for reading; the caller closes the descriptor. Raises FileNotFoundError."""
        with LogDirectory(self._directory, self.user) as directory:
            return directory.open(self._name)

    def is_live(self, inode: int, size: int) -> bool:
        """Return whether the live file has this inode and size, without opening it.

        Nothing may be read on the strength of this answer, as an agent may replace the file at any time.
        """
        try:
            status = os.stat(self._file, follow_symlinks=False)
        except OSError:
            return False
        return status.st_ino == inode and status.st_size == size

    def live_size(self) -> int | None:
        """Return the bytes in the live file, without the hole; None when there is no live file."""
        with self._lock, self._find_directory() as directory:
            return self._live.size - self._live.head if self._live.refresh(directory) else None

    def rotate(self, size: int, keep: int) -> bool:
        """Archive heads of at most `size` bytes (at least one block) until at most `size` bytes are live.

        When the live file would fill more than `keep` archives, the oldest bytes are dropped, as timely
        rotation would have done. Return False, with no byte lost, if the file system can never free the head
        of a file. Raises OSError when the disk is full or broken; the live file then keeps every byte after
        the last complete archive.
        """
        with LogDirectory(self._directory, self.user, public=self.public) as directory:
            fd = directory.open(self._name, os.O_RDWR)
            try:
                with self._lock:
                    if self._live.refresh(directory) and (live := self._extent()) is not None:
                        self._times.begin_cut(directory, live)
                return self._rotate(directory, fd, size, keep)
            finally:
                os.close(fd)
                directory.remove(self._archives.copying)

    def prune(self, keep: int) -> None:
        """Delete the archives with numbers beyond `keep`."""
        with self._refreshed() as directory:
            if directory is not None:
                self._archives.drop(directory, keep)

    def _rotate(self, directory: LogDirectory, fd: int, size: int, keep: int) -> bool:
        block = max(os.fstatvfs(fd).f_bsize, os.fstat(fd).st_blksize)
        piece = max(size // block, 1) * block
        while self._punches:
            with self._lock:
                self._live.refresh(directory)
                self._archives.number_pending(directory, keep)
                if not self._live.is_open_as(fd):
                    return True
                mark = self._live.mark()
                head, live = self._live.head, self._live.size - self._live.head
            if live <= max(size, block):
                return True
            pieces = (live - 1) // piece
            if pieces > keep:
                stop = (head + (pieces - keep) * piece) // block * block
                self._cut(directory, fd, mark, stop, keep, copy=None)
                continue
            stop = (head + piece) // block * block
            copy = self._copy(directory, fd, head, stop)
            self._cut(directory, fd, mark, stop, keep, copy)
        return False

    def _copy(self, directory: LogDirectory, fd: int, start: int, stop: int) -> tuple[int, int]:
        """Copy a head to disk, and return device and inode of the copy.

        The copy must reach the disk before the removal of the head does, or a power failure could lose both.
        """
        copy = directory.create(self._archives.copying)
        try:
            while start < stop:
                sent = os.sendfile(copy, fd, start, min(_COPY_STEP, stop - start))
                if sent == 0:  # an operator truncated the file; `_cut` notices
                    break
                start += sent
            os.fdatasync(copy)
            status = os.fstat(copy)
            return status.st_dev, status.st_ino
        finally:
            os.close(copy)

    def _cut(
        self, directory: LogDirectory, fd: int, mark: tuple[object, ...], stop: int, keep: int,
        copy: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        """Remove the head of the live file up to offset `stop`; `copy` is its copy, None to drop the head."""
        live = self._live
        with self._lock:
            live.refresh(directory)
            if mark != live.mark() or stop >= live.size:
                return  # replaced or truncated meanwhile: the copied bytes are no longer the head
            if copy is not None:
                self._archives.begin_cut(directory, stop, copy)
            try:
                punch_head(fd, live.head, stop)
            except OSError as error:
                if copy is not None:
                    self._archives.cancel_cut(directory)
                if not isinstance(error, UnsupportedError):
                    raise
                self._punches = False
                return
            head, live.head = live.head, stop
            if copy is not None:
                self._archives.end_cut(live.position_of(head), live.position_of(stop))
                self._archives.number_pending(directory, keep)
            else:
                self._archives.drop(directory, 0)
            if self._collapses:
                self._collapse(fd)

    def _collapse(self, fd: int) -> None:
        self.collapsing = self.collapsed + self._live.head
        try:
            collapse_head(fd, self._live.head)
        except OSError as error:
            self.collapsing = self.collapsed
            if not isinstance(error, UnsupportedError):
                raise
            self._collapses = False
            return
        self.collapsed = self.collapsing
        self._live.collapse()

    # --- the present files

    @contextmanager
    def _refreshed(self) -> Iterator[LogDirectory | None]:
        """Hold the lock and refresh the live file; yield the directory, or None without one."""
        with self._lock, self._find_directory() as directory:
            self._live.refresh(directory)
            yield directory

    def _find_directory(self) -> LogDirectory | nullcontext[None]:
        return LogDirectory.find(self._directory, self.user) or nullcontext()
