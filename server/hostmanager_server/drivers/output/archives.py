"""The archives of one output file, and which bytes of its stream they hold."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hostmanager_server.drivers.output.directory_walk import RefusedFileError
from hostmanager_server.drivers.output.log_directory import LogFolder
from hostmanager_server.linux.fallocate import data_start

_log = logging.getLogger(__name__)
_MOST_ARCHIVES = 10_000  # for an archive taken over before the policy is known


@dataclass(frozen=True, slots=True)
class Archive:
    """Positions `start` to `stop` are in the archive number `index`, or in the removed file open as `fd`,
    whose offset 0 is position `base`."""

    start: int
    stop: int
    base: int
    index: int = 0
    fd: int = -1


class Archives:
    """`<live file>.1` is the newest. Not thread-safe: the stream that they belong to holds its lock.

    Methods are given the folder of the files, open; without one, reading finds nothing.
    """

    def __init__(self, live: Path) -> None:
        self._live = live
        self._all: list[Archive] = []  # oldest first
        self._pending: Archive | None = None  # cut from the live file, and not numbered yet
        self.copying = f"{live.name}.copying"
        self._cut: str | None = None  # the copy of what was, or is about to be, removed from the live file
        self._said = False  # that a file which has the name of an archive is refused

    def load(self, folder: LogFolder) -> None:
        """Take over what an earlier daemon left; it ends at position 0."""
        with suppress(OSError):  # a disk that is read-only can be read
            folder.remove(self.copying)
            for stop in self._suffixes(folder, f"{self._live.name}.cut."):
                self._take_over(folder, self._cut_at(stop), stop)
        stop = 0
        for index in sorted(self._suffixes(folder, f"{self._live.name}.")):
            try:
                start = stop - folder.status(self._name(index)).st_size
            except FileNotFoundError:  # removed by hand
                continue
            except RefusedFileError as error:
                self._skip(error)
                continue
            self._all.insert(0, Archive(start, stop, start, index))
            stop = start

    def _suffixes(self, folder: LogFolder, prefix: str) -> list[int]:
        names = folder.names()
        suffixes = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return [
            int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdecimal() and suffix[0] != "0"
        ]

    def _take_over(self, folder: LogFolder, cut: str, stop: int) -> None:
        """A copy that an earlier daemon left when it was about to remove the bytes from the live file."""
        try:
            folder.status(cut)
        except RefusedFileError as error:  # no copy of a daemon's
            self._skip(error)
            return
        if self._has_data_before(folder, stop):
            folder.remove(cut)  # it did not come to that
            return
        self._make_room(folder, _MOST_ARCHIVES)
        folder.rename(cut, self._name(1))
        _log.info("%s: took over an archive that an earlier daemon had not finished", self._live)

    def _skip(self, error: RefusedFileError) -> None:
        if not self._said:
            self._said = True
            _log.warning(
                "cannot use an archive of %s, and leave it out as well as any other such one: %s",
                self._live,
                error,
            )

    def read(self, folder: LogFolder | None, position: int, limit: int) -> tuple[int, bytes] | None:
        """At most `limit` bytes from `position`, or from the next position that is in an archive, and where
        they begin; None when there is none."""
        for archive in self._all:
            if archive.stop > position:
                start = max(position, archive.start)
                if data := self._read(folder, archive, start, min(limit, archive.stop - start)):
                    return start, data
        return None

    def read_before(self, folder: LogFolder | None, position: int, limit: int) -> bytes:
        """At most `limit` bytes that end just before `position`."""
        for archive in reversed(self._all):
            if archive.start < position <= archive.stop:
                start = max(archive.start, position - limit)
                return self._read(folder, archive, start, position - start)
        return b""

    def hold_removed(self, archive: Archive) -> None:
        """Keep a removed file readable, and no other: that would keep its disk space from being freed."""
        self.release_removed()
        self._all.append(archive)

    def release_removed(self) -> None:
        for archive in self._all:
            if archive.fd >= 0:
                os.close(archive.fd)
        self._all = [archive for archive in self._all if archive.fd < 0]

    def begin_cut(self, folder: LogFolder, stop: int, copy: tuple[int, int]) -> None:
        """The copy is whole; its bytes are about to be removed from the live file, up to this offset.

        Raises RefusedFileError when another file than `copy` (device and inode) has its name.
        """
        self._cut = self._cut_at(stop)
        folder.rename(self.copying, self._cut)
        if folder.identity(self._cut) != copy:
            self.cancel_cut(folder)
            raise RefusedFileError(
                folder.path(self.copying), "another process put a file of its own in its place"
            )

    def cancel_cut(self, folder: LogFolder) -> None:
        """They were not removed."""
        assert self._cut is not None
        folder.remove(self._cut)
        self._cut = None

    def end_cut(self, start: int, stop: int) -> None:
        """They were removed: the copy is all there is of these positions. `settle` makes it an archive."""
        self._pending = Archive(start, stop, start, index=1)

    def settle(self, folder: LogFolder, keep: int) -> None:
        """Number what was cut 1, and what was 1 to `keep - 1` one more; the oldest goes. May be repeated
        after an OSError."""
        if self._pending is not None:
            assert self._cut is not None
            self._make_room(folder, keep)
            folder.rename(self._cut, self._name(1))
            self._all.append(self._pending)
            self._pending = self._cut = None

    def drop(self, folder: LogFolder, keep: int) -> None:
        """Delete the ones beyond `keep`."""
        for archive in [archive for archive in self._all if archive.index > keep]:
            folder.remove(self._name(archive.index))
            self._all.remove(archive)

    def _make_room(self, folder: LogFolder, keep: int) -> None:
        """Free the number 1, by moving up those before the first gap, or without one by dropping the
        oldest."""
        self.drop(folder, keep)
        gap = 1
        while gap <= keep and folder.exists(self._name(gap)):
            gap += 1
        if gap > keep:
            gap = keep
            self.drop(folder, keep - 1)
        moved = gap
        try:
            for index in range(gap - 1, 0, -1):
                folder.rename(self._name(index), self._name(index + 1))
                moved = index
        finally:
            self._all = [
                replace(archive, index=archive.index + 1) if moved <= archive.index < gap else archive
                for archive in self._all
            ]

    def _read(self, folder: LogFolder | None, archive: Archive, start: int, limit: int) -> bytes:
        if archive.fd >= 0:
            return os.pread(archive.fd, limit, start - archive.base)
        if folder is None:
            return b""
        try:
            fd = folder.open(self._name(archive.index))
        except FileNotFoundError:  # removed by hand
            return b""
        except RefusedFileError as error:
            self._skip(error)
            return b""
        try:
            return os.pread(fd, limit, start - archive.base)
        finally:
            os.close(fd)

    def _name(self, index: int) -> str:
        return f"{self._live.name}.{index}"

    def _cut_at(self, stop: int) -> str:
        return f"{self._live.name}.cut.{stop}"

    def _has_data_before(self, folder: LogFolder, stop: int) -> bool:
        """Whether nothing of the live file before this offset was removed. One that is shorter was truncated,
        or replaced, by hand."""
        try:
            fd = folder.open(self._live.name)
        except FileNotFoundError:
            return False
        try:
            return os.fstat(fd).st_size >= stop and data_start(fd) < stop
        finally:
            os.close(fd)
