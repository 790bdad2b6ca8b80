"""The live file of an output stream: its identity, its size, and the positions of its bytes."""

from __future__ import annotations

import os

from hostmanager_server.drivers.output.archives import Archive, Archives
from hostmanager_server.drivers.output.log_directory import LogDirectory
from hostmanager_server.linux.fallocate import data_start


class LiveFile:
    """The live file as of the last `refresh`, and its place in the stream of bytes.

    Offset 0 of the file is position `position_of(0)`; data begin at offset `head`, after a punched hole, and
    end at offset `size`. Not thread-safe: the caller, an OutputStream, holds its lock.
    """

    __slots__ = ("_archives", "_base", "_held", "_identity", "_loaded", "_name", "fd", "head", "size")

    def __init__(self, name: str, archives: Archives) -> None:
        """Know nothing about the file `name` before the first `refresh`."""
        self.head = 0
        self.size = 0
        self.fd = -1  # the open file while there are readers, which may finish a removed file
        self._name = name
        self._archives = archives
        self._identity: tuple[int, int] | None = None  # device and inode
        self._base = 0  # position of offset 0
        self._held = False
        self._loaded = False

    @property
    def start(self) -> int:
        """Position of the first byte."""
        return self._base + self.head

    @property
    def end(self) -> int:
        """Position after the last byte."""
        return self._base + self.size

    @property
    def inode(self) -> int | None:
        """Inode of the file; None before the first `refresh` with a file."""
        return None if self._identity is None else self._identity[1]

    def position_of(self, offset: int) -> int:
        """Return the position of an offset in the file."""
        return self._base + offset

    def mark(self) -> tuple[object, ...]:
        """Return a value that changes when the file is replaced or its head moves."""
        return self._identity, self._base, self.head

    def is_open_as(self, fd: int) -> bool:
        """Return whether the descriptor is open on this file."""
        status = os.fstat(fd)
        return self._identity == (status.st_dev, status.st_ino)

    # --- reading

    def hold(self) -> None:
        """Keep the file open from the next `refresh` on."""
        self._held = True

    def release(self) -> None:
        """Close the file, until the next `hold`."""
        self._held = False
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes from `position`; none at the end or when the file is not held."""
        if self.fd >= 0 and position < self.end:
            return os.pread(self.fd, limit, position - self._base)
        return b""

    def read_before(self, position: int, limit: int) -> bytes | None:
        """Return at most `limit` bytes that end just before `position`; None for a position elsewhere."""
        if self.fd >= 0 and self.start < position <= self.end:
            begin = max(self.start, position - limit)
            return os.pread(self.fd, position - begin, begin - self._base)
        return None

    # --- changes to the file

    def collapse(self) -> None:
        """Record that the hole at the head was removed, so that offsets shrink."""
        self._base += self.head
        self.size -= self.head
        self.head = 0

    def refresh(self, directory: LogDirectory | None) -> bool:
        """Observe writes by the process, and truncation or removal by operators, since the last call.

        Return False if the path has no live file. A file truncated and then grown beyond its former size
        looks like a file that only grew, unless the file had a hole at its head.
        """
        if directory is not None and not self._loaded:
            self._archives.load(directory)
            self._loaded = True
        try:
            status = None if directory is None else directory.status(self._name)
        except FileNotFoundError:
            status = None
        if directory is None or status is None:
            if self.fd >= 0:
                self._resize(os.fstat(self.fd).st_size)
            return False
        if self._identity != (status.st_dev, status.st_ino):
            self._switch_to_new_file(directory)
        elif self.fd < 0 and self._held:
            self._open(directory)
        if self.head > 0 and self._hole_is_gone(directory):
            self._restart()
        self._resize(status.st_size if self.fd < 0 else os.fstat(self.fd).st_size)
        return True

    def _switch_to_new_file(self, directory: LogDirectory) -> None:
        if self.fd >= 0:
            self.size = os.fstat(self.fd).st_size
            self._archives.hold_removed(Archive(self.start, self.end, self._base, fd=self.fd))
            self.fd = -1
        self._restart()
        self._open(directory)

    def _restart(self) -> None:
        """Continue at the next position with an empty file, as the earlier bytes are gone."""
        self._base += self.size
        self.head = self.size = 0

    def _open(self, directory: LogDirectory) -> None:
        """Identify the file, and keep the file open while there are readers."""
        try:
            fd = directory.open(self._name)
        except FileNotFoundError:
            return
        try:
            if not self.is_open_as(fd):
                status = os.fstat(fd)
                head = data_start(fd)
                self._identity = (status.st_dev, status.st_ino)
                self.head = head
                self._base -= head
        except BaseException:
            os.close(fd)
            raise
        if self._held:
            self.fd = fd
        else:
            os.close(fd)

    def _hole_is_gone(self, directory: LogDirectory) -> bool:
        """Return whether data stand in the punched hole, written after an operator truncated the file."""
        if self.fd >= 0:
            return data_start(self.fd) < self.head
        try:
            fd = directory.open(self._name)
        except FileNotFoundError:
            return False
        try:
            return data_start(fd) < self.head
        finally:
            os.close(fd)

    def _resize(self, size: int) -> None:
        if size < self.size:
            self._restart()
        self.size = size
