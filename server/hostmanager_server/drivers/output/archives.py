"""The archives of an output file, and the bytes of its stream that each archive holds."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from hostmanager.values import dataclass, replace

from hostmanager_server.drivers.output.directory_walk import RefusedFileError
from hostmanager_server.drivers.output.log_directory import LogDirectory
from hostmanager_server.linux.fallocate import data_start

_log = logging.getLogger(__name__)
# The greatest number of an archive: 1000 is the greatest `keep` of a site config, and a recovered archive may
# come on top before the policy is known. Agents create files with greater numbers, which stay untouched.
_MOST_ARCHIVES = 1001
# The most unfinished copies that are recovered. A daemon leaves one; agents create others.
_MOST_CUTS = 4


@dataclass(frozen=True, slots=True)
class Archive:
    """Positions `start` to `stop` of a stream, in one file whose offset 0 is position `base`.

    The file is the archive number `index`, or a removed file that is open as `fd`.
    """

    start: int
    stop: int
    base: int
    index: int = 0
    fd: int = -1


class Archives:
    """All archives of one live file; `<live file>.1` is the newest.

    Not thread-safe: the caller, an OutputStream, holds its lock. Methods take the open directory of the
    files; without a directory, reading finds nothing.
    """

    __slots__ = ("_all", "_cut", "_live", "_pending", "_warned")

    def __init__(self, live: Path) -> None:
        """Know no archives before `load`."""
        self._live = live
        self._all: list[Archive] = []  # oldest first
        self._pending: Archive | None = None  # cut from the live file, without a number yet
        self._cut: str | None = None  # the copy of a head that is removed from the live file, or will be
        self._warned = False  # a warning about a refused archive was logged

    @property
    def copying(self) -> str:
        """The name of an archive that is being copied."""
        return f"{self._live.name}.copying"

    def load(self, directory: LogDirectory) -> None:
        """Recover the archives of an earlier daemon; the newest archive ends at position 0."""
        with suppress(OSError):  # a read-only disk is readable all the same
            directory.remove(self.copying)
            stops = sorted(self._suffixes(directory, f"{self._live.name}.cut."), reverse=True)
            for stop in stops[:_MOST_CUTS]:
                self._recover_cut(directory, self._cut_at(stop), stop)
            if len(stops) > _MOST_CUTS:
                _log.warning(
                    "%s: %d unfinished archives are left out; a daemon leaves one, remove the others",
                    self._live, len(stops) - _MOST_CUTS,
                )  # fmt: skip
        newest_first: list[Archive] = []
        stop = 0
        suffixes = self._suffixes(directory, f"{self._live.name}.")
        for index in sorted(suffix for suffix in suffixes if suffix <= _MOST_ARCHIVES):
            try:
                start = stop - directory.status(self._name(index)).st_size
            except FileNotFoundError:  # removed by an operator
                continue
            except RefusedFileError as error:
                self._skip(error)
                continue
            newest_first.append(Archive(start, stop, start, index))
            stop = start
        self._all = [*reversed(newest_first), *self._all]

    def _suffixes(self, directory: LogDirectory, prefix: str) -> list[int]:
        names = directory.names()
        suffixes = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return [
            int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdecimal() and suffix[0] != "0"
        ]

    def _recover_cut(self, directory: LogDirectory, cut: str, stop: int) -> None:
        """Make an archive of a copy whose bytes the live file lost; delete a copy of bytes still there."""
        try:
            directory.status(cut)
        except RefusedFileError as error:  # no daemon wrote the file
            self._skip(error)
            return
        if self._has_data_before(directory, stop):
            directory.remove(cut)  # the live file still has the bytes
            return
        self._make_room(directory, _MOST_ARCHIVES)
        directory.rename(cut, self._name(1))
        _log.info("%s: recovered an archive that an earlier daemon had not finished", self._live)

    def _skip(self, error: RefusedFileError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "cannot read an archive of %s: %s; such archives are left out",
                self._live,
                error,
            )

    def read(self, directory: LogDirectory | None, position: int, limit: int) -> tuple[int, bytes] | None:
        """Return at most `limit` bytes from `position`, or from the next archived position.

        The result is the position of the first byte and the bytes, or None when no archive holds later bytes.
        """
        for archive in self._all:
            if archive.stop > position:
                start = max(position, archive.start)
                if data := self._read(directory, archive, start, min(limit, archive.stop - start)):
                    return start, data
        return None

    def read_before(self, directory: LogDirectory | None, position: int, limit: int) -> bytes:
        """Return at most `limit` bytes that end just before `position`."""
        for archive in reversed(self._all):
            if archive.start < position <= archive.stop:
                start = max(archive.start, position - limit)
                return self._read(directory, archive, start, position - start)
        return b""

    def oldest(self, start: int) -> int:
        """Return the position of the oldest archived byte; `start` without archives."""
        return self._all[0].start if self._all else start

    def hold_removed(self, archive: Archive) -> None:
        """Keep a removed live file readable, and release the one before.

        Only one removed file stays open, as an open file keeps its disk space.
        """
        self.release_removed()
        self._all.append(archive)

    def release_removed(self) -> None:
        """Close the removed file, if any."""
        for archive in self._all:
            if archive.fd >= 0:
                os.close(archive.fd)
        self._all = [archive for archive in self._all if archive.fd < 0]

    def begin_cut(self, directory: LogDirectory, stop: int, copy: tuple[int, int]) -> None:
        """Mark the complete copy before its bytes, up to offset `stop`, are removed from the live file.

        Raises RefusedFileError when the name of the copy belongs to another file than `copy` (device and
        inode).
        """
        self._cut = self._cut_at(stop)
        directory.rename(self.copying, self._cut)
        if directory.identity(self._cut) != copy:
            self.cancel_cut(directory)
            raise RefusedFileError(directory.path(self.copying), "another process replaced the file")

    def cancel_cut(self, directory: LogDirectory) -> None:
        """Remove the copy, as the bytes stayed in the live file."""
        assert self._cut is not None
        directory.remove(self._cut)
        self._cut = None

    def end_cut(self, start: int, stop: int) -> None:
        """Record that only the copy holds positions `start` to `stop`.

        `number_pending` makes an archive of the copy.
        """
        self._pending = Archive(start, stop, start, index=1)

    def number_pending(self, directory: LogDirectory, keep: int) -> None:
        """Make the copy archive 1, move the others up by one and delete the oldest beyond `keep`.

        The caller may repeat the call after an OSError.
        """
        if self._pending is not None:
            assert self._cut is not None
            self._make_room(directory, keep)
            directory.rename(self._cut, self._name(1))
            self._all.append(self._pending)
            self._pending = self._cut = None

    def drop(self, directory: LogDirectory, keep: int) -> None:
        """Delete the archives with numbers beyond `keep`."""
        dropped: set[Archive] = set()
        try:
            for archive in self._all:
                if archive.index > keep:
                    directory.remove(self._name(archive.index))
                    dropped.add(archive)
        finally:
            self._all = [archive for archive in self._all if archive not in dropped]

    def _make_room(self, directory: LogDirectory, keep: int) -> None:
        """Free the number 1: move the archives before the first gap up, or drop the oldest."""
        self.drop(directory, keep)
        gap = 1
        while gap <= keep and directory.exists(self._name(gap)):
            gap += 1
        if gap > keep:
            gap = keep
            self.drop(directory, keep - 1)
        moved = gap
        try:
            for index in range(gap - 1, 0, -1):
                directory.rename(self._name(index), self._name(index + 1))
                moved = index
        finally:
            self._all = [
                replace(archive, index=archive.index + 1) if moved <= archive.index < gap else archive
                for archive in self._all
            ]

    def _read(self, directory: LogDirectory | None, archive: Archive, start: int, limit: int) -> bytes:
        if archive.fd >= 0:
            return os.pread(archive.fd, limit, start - archive.base)
        if directory is None:
            return b""
        try:
            fd = directory.open(self._name(archive.index))
        except FileNotFoundError:  # removed by an operator
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

    def _has_data_before(self, directory: LogDirectory, stop: int) -> bool:
        """Return whether the live file still has all bytes before this offset.

        A shorter file was truncated or replaced by an operator.
        """
        try:
            fd = directory.open(self._live.name)
        except FileNotFoundError:
            return False
        try:
            return os.fstat(fd).st_size >= stop and data_start(fd) < stop
        finally:
            os.close(fd)
