"""The archives of one output file, and which bytes of its stream they hold."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hostmanager_server.drivers.fallocate import data_start

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
    """`<live file>.1` is the newest. Not thread-safe: the stream that they belong to holds its lock."""

    def __init__(self, live: Path) -> None:
        self._live = live
        self._all: list[Archive] = []  # oldest first
        self._pending: Archive | None = None  # cut from the live file, and not numbered yet
        self.copying = live.with_name(f"{live.name}.copying")
        self._cut: Path | None = None  # the copy of what was, or is about to be, removed from the live file

    def load(self) -> None:
        """Take over what an earlier daemon left; it ends at position 0."""
        with suppress(OSError):  # a disk that is read-only can be read
            self.copying.unlink(missing_ok=True)
            for stop in self._suffixes(f"{self._live.name}.cut."):
                self._take_over(self._cut_at(stop), stop)
        stop = 0
        for index in sorted(self._suffixes(f"{self._live.name}.")):
            start = stop - self._path(index).stat().st_size
            self._all.insert(0, Archive(start, stop, start, index))
            stop = start

    def _suffixes(self, prefix: str) -> list[int]:
        try:
            names = os.listdir(self._live.parent)
        except FileNotFoundError:
            return []
        suffixes = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return [int(suffix) for suffix in suffixes if suffix.isdecimal() and suffix[0] != "0"]

    def _take_over(self, cut: Path, stop: int) -> None:
        """A copy that an earlier daemon left when it was about to remove the bytes from the live file."""
        if _has_data_before(self._live, stop):
            cut.unlink()  # it did not come to that
            return
        self._make_room(_MOST_ARCHIVES)
        cut.rename(self._path(1))
        _log.info("%s: took over an archive that an earlier daemon had not finished", self._live)

    def read(self, position: int, limit: int) -> tuple[int, bytes] | None:
        """At most `limit` bytes from `position`, or from the next position that is in an archive, and where
        they begin; None when there is none."""
        for archive in self._all:
            if archive.stop > position:
                start = max(position, archive.start)
                if data := self._read(archive, start, min(limit, archive.stop - start)):
                    return start, data
        return None

    def read_before(self, position: int, limit: int) -> bytes:
        """At most `limit` bytes that end just before `position`."""
        for archive in reversed(self._all):
            if archive.start < position <= archive.stop:
                start = max(archive.start, position - limit)
                return self._read(archive, start, position - start)
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

    def begin_cut(self, stop: int) -> None:
        """The copy is whole; its bytes are about to be removed from the live file, up to this offset."""
        self._cut = self._cut_at(stop)
        self.copying.rename(self._cut)

    def cancel_cut(self) -> None:
        """They were not removed."""
        assert self._cut is not None
        self._cut.unlink()
        self._cut = None

    def end_cut(self, start: int, stop: int) -> None:
        """They were removed: the copy is all there is of these positions. `settle` makes it an archive."""
        self._pending = Archive(start, stop, start, index=1)

    def settle(self, keep: int) -> None:
        """Number what was cut 1, and what was 1 to `keep - 1` one more; the oldest goes. May be repeated
        after an OSError."""
        if self._pending is not None:
            assert self._cut is not None
            self._make_room(keep)
            self._cut.rename(self._path(1))
            self._all.append(self._pending)
            self._pending = self._cut = None

    def drop(self, keep: int) -> None:
        """Delete the ones beyond `keep`."""
        for archive in [archive for archive in self._all if archive.index > keep]:
            self._path(archive.index).unlink(missing_ok=True)
            self._all.remove(archive)

    def _make_room(self, keep: int) -> None:
        """Free the number 1, by moving up those before the first gap, or without one by dropping the
        oldest."""
        self.drop(keep)
        gap = 1
        while self._path(gap).exists():
            gap += 1
        if gap > keep:
            gap = keep
            self.drop(keep - 1)
        moved = gap
        try:
            for index in range(gap - 1, 0, -1):
                self._path(index).rename(self._path(index + 1))
                moved = index
        finally:
            self._all = [
                replace(archive, index=archive.index + 1) if moved <= archive.index < gap else archive
                for archive in self._all
            ]

    def _read(self, archive: Archive, start: int, limit: int) -> bytes:
        if archive.fd >= 0:
            return os.pread(archive.fd, limit, start - archive.base)
        with suppress(FileNotFoundError):  # removed by hand
            fd = os.open(self._path(archive.index), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(fd, limit, start - archive.base)
            finally:
                os.close(fd)
        return b""

    def _path(self, index: int) -> Path:
        return self._live.with_name(f"{self._live.name}.{index}")

    def _cut_at(self, stop: int) -> Path:
        return self._live.with_name(f"{self._live.name}.cut.{stop}")


def _has_data_before(live: Path, stop: int) -> bool:
    """Whether nothing of the live file before this offset was removed. One that is shorter was truncated, or
    replaced, by hand."""
    try:
        fd = os.open(live, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.fstat(fd).st_size >= stop and data_start(fd) < stop
    finally:
        os.close(fd)
