"""Times for the lines of one reader, and the positions where wanted times begin and end."""

from __future__ import annotations

import time

from hostmanager_server.drivers.output.line_times import TimeTable
from hostmanager_server.drivers.output.lines import LastLines, LineAssembler, LogLine
from hostmanager_server.drivers.output.stream import Extent, OutputStream
from hostmanager_server.drivers.output.wanted_lines import NoSuchRunError, WantedLines

_RELOAD = 1.0  # s between readings of the index by a reader that lags behind


class LineClock:
    """The times of the lines of a stream, for one reader. Belongs to one job of the reader at a time."""

    def __init__(self, stream: OutputStream) -> None:
        """Read nothing yet."""
        self._stream = stream
        self._table: TimeTable | None = None
        self._loaded = 0.0

    def feed(self, assembler: LineAssembler, extent: Extent, *, fresh: bool) -> list[LogLine]:
        """Give the bytes to the assembler, and return the lines complete now, with their times.

        `fresh`: the reader waited for these bytes, so the process wrote them just now.
        """
        now, start, data = time.time(), extent.start, extent.data
        stop = start + len(data)
        table = self._table_up_to(stop, now, fresh=fresh)
        lines: list[LogLine] = []
        for bound in (*table.bounds_between(start, stop), stop):
            at = table.time_at(bound, now)
            if fresh and at == 0.0 and table.ends_before(bound):
                at = now
            lines += assembler.feed(data[start - extent.start : bound - extent.start], at)
            start = bound
        return lines

    def range(self, wanted: WantedLines) -> tuple[int | None, int | None]:
        """Return the positions of the first and after the last byte of the wanted runs and times.

        None: no limit. Raises NoSuchRunError.
        """
        table, now = self._load(time.time()), time.time()
        begin = end = None
        if wanted.runs_back:
            if wanted.runs_back > len(table.runs):
                raise NoSuchRunError
            begin = table.runs[-wanted.runs_back]
            end = table.runs[1 - wanted.runs_back] if wanted.runs_back > 1 else None
        if wanted.since is not None:
            since = self._line_start(table.begin_since(wanted.since))
            begin = since if begin is None else begin if since is None else max(begin, since)
        if wanted.until is not None:
            until = self._line_start(table.end_until(wanted.until, now))
            end = until if end is None else end if until is None else min(end, until)
        return begin, end

    def _line_start(self, position: int | None) -> int | None:
        """Return where the line around a position begins: a look at a file may fall inside a line."""
        if position is None or self._stream.read_before(position, 1) in (b"", b"\n"):
            return position
        search = LastLines(self._stream.read_before, position, 1, block=64 * 1024)
        while (start := search.step()) is None:
            pass
        return start

    def _table_up_to(self, position: int, now: float, *, fresh: bool) -> TimeTable:
        table = self._table
        if table is None:
            return self._load(now)
        if not fresh and table.ends_before(position) and now - self._loaded > _RELOAD:
            return self._load(now)
        return table

    def _load(self, now: float) -> TimeTable:
        self._table, self._loaded = self._stream.read_times(), now
        return self._table
