"""The index file beside an output file: by which time the output had reached which position.

The process writes its output itself, so the daemon knows the time of a line only from looking at the size of
the file. The rotation thread looks at a growing file about once a second, and adds 24 bytes to the index
`<name>.log.times`. Nothing is written per line, and the output stays as the process wrote it.

Positions are valid for one life of the daemon. So the index also says at which position the live file begins
(its anchor), and the next daemon moves the earlier records to its own positions. An index that does not fit
the live file is dropped: the times of those lines are unknown then, and never wrong.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from hostmanager.values import dataclass

from hostmanager_server.drivers.output.line_times import (
    MOST_RECORDS,
    RECORD,
    Kind,
    Record,
    TimeTable,
    compact,
    parse,
    shift_to,
    shifted,
)
from hostmanager_server.drivers.output.log_directory import LogDirectory

_log = logging.getLogger(__name__)
_MOMENTS = (Kind.REACHED, Kind.AFTER_GAP)
_LARGEST = 2 * MOST_RECORDS * RECORD.size  # bytes; a larger file is not ours


@dataclass(frozen=True, slots=True)
class LiveExtent:
    """The live file as the index needs it: its inode, and the positions of its bytes."""

    inode: int
    start: int
    end: int
    oldest: int  # position of the oldest byte, in archives too


class TimeIndex:
    """The index of one output file.

    Not thread-safe: the caller, an OutputStream, holds its lock. No method raises OSError: output must not
    depend on the index. After a failed write the time in between is unknown.
    """

    def __init__(self, live: str) -> None:
        """Take the name of the live file; no file is opened."""
        self._name = f"{live}.times"
        self._joined = False  # the index has the positions of this life of the daemon
        self._anchor: tuple[int, int] | None = None  # as in the index; None: must be written
        self._reached: int | None = None  # the last position in the index; None: after a gap
        self._records = 0

    def note(self, directory: LogDirectory, live: LiveExtent, now: float) -> None:
        """Record that the output has reached its present end."""
        if self._reached == live.end and self._anchor == (live.inode, live.start):
            return
        self._write(directory, live, (Kind.REACHED, round(now * 1000.0), live.end))

    def begin_run(self, directory: LogDirectory, live: LiveExtent, position: int, at: float) -> None:
        """Record that a run began at a position and time."""
        when = round(at * 1000.0)
        self._write(directory, live, (Kind.REACHED, when, position), (Kind.RUN, when, position))

    def begin_cut(self, directory: LogDirectory, live: LiveExtent) -> None:
        """Record that the head of the live file will move, so that a crash meanwhile is noticed."""
        if self._joined:
            self._write(directory, live, (Kind.CUTTING, 0, 0))
            self._anchor = None

    def read(self, directory: LogDirectory | None, live: LiveExtent | None) -> TimeTable:
        """Return the table in the positions of this life; empty if unknown."""
        table = TimeTable() if directory is None else parse(self._load(directory))
        if not self._joined:
            shift = None if live is None else shift_to(table, live.inode, live.start, live.end)
            return TimeTable() if shift is None else shifted(table, shift)
        table.current = True
        return table

    def _write(self, directory: LogDirectory, live: LiveExtent, *records: Record) -> None:
        try:
            lines = [*self._opening(directory, live), *self._in_order(records)]
            if lines:
                self._append(directory, lines)
            if self._records > MOST_RECORDS:
                self._compact(directory, live)
        except OSError as error:
            _log.debug("cannot write %s: %s", directory.path(self._name), error)
            self._anchor = self._reached = None
            return
        self._joined = True
        self._anchor = (live.inode, live.start)
        self._reached = max((r[2] for r in lines if r[0] in _MOMENTS), default=self._reached)

    def _in_order(self, records: Iterable[Record]) -> list[Record]:
        """Return the records that add something; the first moment of a life comes after a gap."""
        if self._reached is None:
            return [(Kind.AFTER_GAP if r[0] == Kind.REACHED else r[0], r[1], r[2]) for r in records]
        # A run may have begun before the last look at the file.
        return [r for r in records if r[0] != Kind.REACHED or r[2] > self._reached]

    def _opening(self, directory: LogDirectory, live: LiveExtent) -> list[Record]:
        """Return the records that must come first: the shift from an earlier life, the anchor."""
        lines: list[Record] = []
        if not self._joined:
            data = self._load(directory)
            shift = shift_to(parse(data), live.inode, live.start, live.end)
            if shift is None or len(data) % RECORD.size:
                os.close(directory.create(self._name))
            else:
                lines.append((Kind.SHIFT, shift, 0))
        if self._anchor != (live.inode, live.start):
            lines.append((Kind.ANCHOR, live.inode, live.start))
        return lines

    def _load(self, directory: LogDirectory) -> bytes:
        """Return the bytes of the index; none if there is no index that the daemon may read."""
        try:
            fd = directory.open(self._name)
        except OSError:
            return b""
        try:
            return os.pread(fd, _LARGEST, 0) if os.fstat(fd).st_size <= _LARGEST else b""
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _append(self, directory: LogDirectory, records: Iterable[Record]) -> None:
        data = b"".join(RECORD.pack(*record) for record in records)
        fd = directory.open_for_append(self._name)
        try:
            size = os.fstat(fd).st_size
            if size == 0 and self._anchor is not None:
                raise OSError("the index was removed")  # begin again, with an anchor
            if os.write(fd, data) != len(data):  # the disk is full
                os.ftruncate(fd, size)
                raise OSError("the disk is full")
        finally:
            os.close(fd)
        self._records = (size + len(data)) // RECORD.size

    def _compact(self, directory: LogDirectory, live: LiveExtent) -> None:
        new = f"{self._name}.new"
        records = list(compact(parse(self._load(directory)), live.oldest))
        fd = directory.create(new)
        try:
            os.write(fd, b"".join(RECORD.pack(*record) for record in records))
        finally:
            os.close(fd)
        directory.rename(new, self._name)
        self._records = len(records)
