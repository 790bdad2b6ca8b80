"""The output of one instance as one endless stream of bytes: the live file, its archives, their offsets.

The live file `<name>.log` is appended to by the child alone. Its head is moved to `<name>.log.1`, and what
was there to `.2` … `.keep`; the oldest goes. A head ends at a block boundary, so a line may begin in one
file and go on in the next: archives, oldest first, and then the live file, put together, are the exact
bytes that were written.

A *position* counts bytes of that stream. It stays what it is when its byte moves from the live file to an
archive, so readers go by positions. Positions hold for one life of the daemon.

The daemon may die at any step of this. The copy of a head is `<name>.log.copying` until it is whole; one
that is left over is deleted, for its bytes are still in the live file. From just before the removal until it
becomes `.1` it is `<name>.log.cut.<offset>`, and whether the removal has come about can be told: the live
file then begins with a hole up to that offset. Only when the copy is `.1` is the hole collapsed, where the
file system can do that. So nothing is lost, and nothing is there twice.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hostmanager_server.drivers.output.archives import Archive, Archives
from hostmanager_server.drivers.output.log_directory import LogFolder
from hostmanager_server.linux.fallocate import UnsupportedError, collapse_head, data_start, punch_head

_COPY_STEP = 1 << 20  # bytes per sendfile(2)


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes from position `start`; `skipped` bytes before that are in no file any more."""

    start: int
    data: bytes
    skipped: int = 0


class OutputStream:
    """Thread-safe. Only one thread may rotate; readers are kept waiting for some system calls at most.

    Every use opens the directory again and goes by that descriptor. Agents may write there: methods that look
    at the live file raise RefusedFileError for one that LogFolder refuses, and archives of that kind are
    left out.
    """

    def __init__(self, path: Path, user: str = "") -> None:
        """`user` is the agent's, whose files are taken, too; it may be changed."""
        self.path = path
        self.user = user
        self._directory, self._name = str(path.parent), path.name
        self._lock = threading.Lock()
        self._identity: tuple[int, int] | None = None  # device and inode of the live file
        self._base = 0  # position of the live file's offset 0
        self._head = 0  # offset where its data begin: what is before was punched out
        self._size = 0  # of the live file, when last looked at
        self._archives = Archives(path)
        self._loaded = False
        self._punches = self._collapses = True  # until the file system is found to be unable
        self._readers = 0
        # Replaced, never changed: it is read without the lock.
        self._subscribers: tuple[Callable[[], None], ...] = ()
        self._fd = -1  # the live file, held while there are readers, so that they finish one that is removed

    # -- the writer

    def open_for_append(self) -> int:
        """Open the live file for a process to inherit, created when missing along with its directory.

        The caller closes the descriptor.
        """
        with LogFolder(self._directory, self.user, make=True) as folder:
            fd = folder.open_for_append(self._name)
        os.set_blocking(fd, True)  # the process shares it
        return fd

    # -- readers

    def acquire(self) -> None:
        """Begin to read: until `release`, a live file that is removed or replaced stays readable."""
        with self._lock:
            self._readers += 1

    def release(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._archives.release_removed()
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call `changed`, on any thread, whenever a process is given this file to write to."""
        with self._lock:
            self._subscribers = (*self._subscribers, changed)

    def unsubscribe(self, changed: Callable[[], None]) -> None:
        with self._lock:
            self._subscribers = tuple(other for other in self._subscribers if other is not changed)

    def announce(self) -> None:
        """A process is given this file to write to. Never waits."""
        for changed in self._subscribers:
            changed()

    def end(self) -> int:
        """Position after the last byte written. It counts on when the file is truncated or replaced."""
        with self._look():
            return self._base + self._size

    def read(self, position: int, limit: int) -> Extent:
        """At most `limit` bytes from `position`, or from the next position that still is in a file. No
        data: the end."""
        with self._look() as folder:
            if archived := self._archives.read(folder, position, limit):
                start, data = archived
                return Extent(start, data, start - position)
            start = max(position, self._base + self._head)
            data = b""
            if self._fd >= 0 and start < self._base + self._size:
                data = os.pread(self._fd, limit, start - self._base)
            return Extent(start, data, start - position)

    def read_before(self, position: int, limit: int) -> bytes:
        """At most `limit` bytes that end just before `position`; none when nothing older is kept."""
        with self._look() as folder:
            start = self._base + self._head
            if self._fd >= 0 and start < position <= self._base + self._size:
                begin = max(start, position - limit)
                return os.pread(self._fd, position - begin, begin - self._base)
            return self._archives.read_before(folder, position, limit)

    def live_descriptor(self) -> int:
        """The live file, for a reader to watch; -1 when there is none. It is the stream's: not to be
        closed."""
        with self._look():
            return self._fd

    # -- rotation

    def open_live(self) -> int:
        """The live file, opened for reading; the caller closes it. Raises FileNotFoundError when there is
        none."""
        with LogFolder(self._directory, self.user) as folder:
            return folder.open(self._name)

    def live_size(self) -> int | None:
        """Bytes in the live file, holes not counted; None when there is no such file."""
        with self._lock, self._folder() as folder:
            return self._size - self._head if self._refresh(folder) else None

    def rotate(self, size: int, keep: int) -> bool:
        """Archive heads of at most `size` bytes (a block at least) until no more than that is live.

        Of a live file so large that it would fill more than `keep` archives, the oldest bytes are dropped,
        as they would have been had it been rotated in time. False, for good: the file system cannot free
        the head of a file, and nothing was lost. Raises OSError, and has not changed the live file since
        the last whole piece, when the disk is full or broken.
        """
        with LogFolder(self._directory, self.user) as folder:
            fd = folder.open(self._name, os.O_RDWR)
            try:
                return self._rotate(folder, fd, size, keep)
            finally:
                os.close(fd)
                folder.remove(self._archives.copying)

    def prune(self, keep: int) -> None:
        """Delete the archives beyond `keep`."""
        with self._look() as folder:
            if folder is not None:
                self._archives.drop(folder, keep)

    def _rotate(self, folder: LogFolder, fd: int, size: int, keep: int) -> bool:
        block = max(os.fstatvfs(fd).f_bsize, os.fstat(fd).st_blksize)
        piece = max(size // block, 1) * block
        while self._punches:
            with self._lock:
                self._refresh(folder)
                self._archives.settle(folder, keep)
                status = os.fstat(fd)
                if self._identity != (status.st_dev, status.st_ino):
                    return True
                mark = self._mark()
                head, live = self._head, self._size - self._head
            if live <= max(size, block):
                return True
            pieces = (live - 1) // piece
            if pieces > keep:
                stop = (head + (pieces - keep) * piece) // block * block
                self._cut(folder, fd, mark, stop, keep, copy=None)
                continue
            stop = (head + piece) // block * block
            copy = self._copy(folder, fd, head, stop)
            self._cut(folder, fd, mark, stop, keep, copy)
        return False

    def _copy(self, folder: LogFolder, fd: int, start: int, stop: int) -> tuple[int, int]:
        """To disk, as the removal that follows may be: a power failure must not leave neither. Device and
        inode of the copy."""
        copy = folder.create(self._archives.copying)
        try:
            while start < stop:
                sent = os.sendfile(copy, fd, start, min(_COPY_STEP, stop - start))
                if sent == 0:  # truncated by hand meanwhile: `_cut` sees it
                    break
                start += sent
            os.fdatasync(copy)
            status = os.fstat(copy)
            return status.st_dev, status.st_ino
        finally:
            os.close(copy)

    def _cut(
        self, folder: LogFolder, fd: int, mark: tuple[object, ...], stop: int, keep: int,
        copy: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        """Remove the head of the live file, of which there is a copy; None: not to be kept."""
        with self._lock:
            self._refresh(folder)
            if mark != self._mark() or stop >= self._size:
                return  # replaced or truncated by hand since: what was copied is not its head any more
            if copy is not None:
                self._archives.begin_cut(folder, stop, copy)
            try:
                punch_head(fd, self._head, stop)
            except OSError as error:
                if copy is not None:
                    self._archives.cancel_cut(folder)
                if not isinstance(error, UnsupportedError):
                    raise
                self._punches = False
                return
            head, self._head = self._head, stop
            if copy is not None:
                self._archives.end_cut(self._base + head, self._base + stop)
                self._archives.settle(folder, keep)
            else:
                self._archives.drop(folder, 0)
            if self._collapses:
                self._collapse(fd)

    def _collapse(self, fd: int) -> None:
        try:
            collapse_head(fd, self._head)
        except UnsupportedError:
            self._collapses = False
            return
        self._base += self._head
        self._size -= self._head
        self._head = 0

    # -- what the files are now; the lock is held

    def _mark(self) -> tuple[object, ...]:
        return self._identity, self._base, self._head

    @contextmanager
    def _look(self) -> Iterator[LogFolder | None]:
        """Hold the lock, having learnt what the files are now; None where there is no directory."""
        with self._lock, self._folder() as folder:
            self._refresh(folder)
            yield folder

    def _folder(self) -> LogFolder | nullcontext[None]:
        return LogFolder.find(self._directory, self.user) or nullcontext()

    def _refresh(self, folder: LogFolder | None) -> bool:
        """Learn what the child, and whoever truncates or removes files by hand, did since the last look.
        False: there is no live file at the path.

        Without a hole at its head, a file that was truncated and has grown beyond its former size since
        cannot be told from one that only grew.
        """
        if folder is not None and not self._loaded:
            self._archives.load(folder)
            self._loaded = True
        try:
            status = None if folder is None else folder.status(self._name)
        except FileNotFoundError:
            status = None
        if folder is None or status is None:
            if self._fd >= 0:
                self._resized(os.fstat(self._fd).st_size)
            return False
        if self._identity != (status.st_dev, status.st_ino):
            self._replaced(folder)
        elif self._fd < 0 and self._readers:
            self._open(folder)
        if self._head > 0 and self._hole_is_gone(folder):
            self._restart()
        self._resized(status.st_size if self._fd < 0 else os.fstat(self._fd).st_size)
        return True

    def _replaced(self, folder: LogFolder) -> None:
        if self._fd >= 0:
            self._size = os.fstat(self._fd).st_size
            start, stop = self._base + self._head, self._base + self._size
            self._archives.hold_removed(Archive(start, stop, self._base, fd=self._fd))
            self._fd = -1
        self._restart()
        self._open(folder)

    def _restart(self) -> None:
        """What the live file held is gone: it starts anew at the position that comes next."""
        self._base += self._size
        self._head = self._size = 0

    def _open(self, folder: LogFolder) -> None:
        """Look at the live file, and hold it while there are readers."""
        try:
            fd = folder.open(self._name)
        except FileNotFoundError:
            return
        try:
            status = os.fstat(fd)
            identity = (status.st_dev, status.st_ino)
            if identity != self._identity:
                head = data_start(fd)
                self._identity = identity
                self._head = head
                self._base -= head
        except BaseException:
            os.close(fd)
            raise
        if self._readers:
            self._fd = fd
        else:
            os.close(fd)

    def _hole_is_gone(self, folder: LogFolder) -> bool:
        """Data where a hole was punched: truncated by hand, and written since."""
        if self._fd >= 0:
            return data_start(self._fd) < self._head
        try:
            fd = folder.open(self._name)
        except FileNotFoundError:
            return False
        try:
            return data_start(fd) < self._head
        finally:
            os.close(fd)

    def _resized(self, size: int) -> None:
        if size < self._size:
            self._restart()
        self._size = size
