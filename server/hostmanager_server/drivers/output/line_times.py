"""Times of output lines, by their positions in the stream of bytes."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import pairwise

from hostmanager.values import dataclass, field

SHORT_GAP = 2.0  # s; lines from a shorter gap have the time of its end
MOST_RECORDS = 8192  # in one index; with more, every second old entry is dropped
_MOST_RUNS = 100  # whose begin an index keeps
RECORD = struct.Struct("<qqq")


class Kind(IntEnum):
    """The meaning of a record of an index, and of its two numbers."""

    REACHED = 1  # at a time (ms) the output had reached a position
    AFTER_GAP = 2  # the same, after a time in which no daemon looked
    RUN = 3  # at a time (ms) a run began at a position
    ANCHOR = 4  # the live file of this inode begins with the byte at a position
    CUTTING = 5  # the head of the live file is about to move to an archive; until the next ANCHOR
    SHIFT = 6  # the positions of all earlier records must grow by a number


Record = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Moment:
    """The time, in s since 1970, by which the output had reached a position.

    `after_gap`: no daemon looked between the moment before and this one.
    """

    position: int
    time: float
    after_gap: bool = False


@dataclass(slots=True)
class TimeTable:
    """The moments of one stream, and the positions at which runs began; both in rising order.

    `current`: a daemon looks, so bytes after the last moment are younger than SHORT_GAP.
    """

    moments: list[Moment] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    anchor: tuple[int, int] | None = None  # inode of the live file, position of its first byte
    cutting: bool = False
    current: bool = False

    def time_at(self, position: int, now: float) -> float:
        """Return the time of the line that ends at a position; 0 if unknown."""
        index = self._index(position)
        if index == len(self.moments):
            return now if self.current else 0.0
        return 0.0 if self._is_unknown(index) else self.moments[index].time

    def ends_before(self, position: int) -> bool:
        """Return whether the position lies after the last moment."""
        return not self.moments or self.moments[-1].position < position

    def bounds_between(self, start: int, stop: int) -> Iterator[int]:
        """Yield the positions inside a range at which the time of lines changes."""
        for index in range(self._index(start + 1), len(self.moments)):
            if self.moments[index].position >= stop:
                return
            yield self.moments[index].position

    def begin_since(self, since: float) -> int | None:
        """Return the position before which every line is older; None: the oldest byte."""
        before: int | None = None
        for moment in self.moments:
            if moment.time >= since:
                return before
            before = moment.position
        return before

    def end_until(self, until: float, now: float) -> int | None:
        """Return the position after which every line is younger; None: the newest byte."""
        moments = self.moments
        if not moments or until >= now or (not self.current and moments[-1].time <= until):
            return None
        for index in range(len(moments) - 1, -1, -1):
            if self._is_unknown(index):
                earliest = moments[index - 1].time if index else 0.0
            else:
                earliest = moments[index].time
            if earliest <= until:
                return moments[index].position
        return moments[0].position if moments[0].after_gap else -(1 << 62)

    def _index(self, position: int) -> int:
        return bisect_left(self.moments, position, key=lambda moment: moment.position)

    def _is_unknown(self, index: int) -> bool:
        moment = self.moments[index]
        if not moment.after_gap:
            return False
        return index == 0 or moment.time - self.moments[index - 1].time > SHORT_GAP


def parse(data: bytes) -> TimeTable:
    """Return the table of an index; records that contradict earlier ones replace those."""
    table = TimeTable()
    whole = len(data) - len(data) % RECORD.size
    for kind, first, second in RECORD.iter_unpack(data[:whole]):
        match kind:
            case Kind.REACHED | Kind.AFTER_GAP:
                _add(table, Moment(second, first / 1000.0, kind == Kind.AFTER_GAP))
            case Kind.RUN:
                while table.runs and table.runs[-1] > second:
                    table.runs.pop()
                table.runs.append(second)
            case Kind.ANCHOR:
                table.anchor, table.cutting = (first, second), False
            case Kind.CUTTING:
                table.cutting = True
            case Kind.SHIFT:
                _shift(table, first)
    return table


def _add(table: TimeTable, moment: Moment) -> None:
    while table.moments and table.moments[-1].position > moment.position:
        table.moments.pop()
    if not table.moments or table.moments[-1].position < moment.position:
        table.moments.append(moment)


def _shift(table: TimeTable, by: int) -> None:
    table.moments = [Moment(each.position + by, each.time, each.after_gap) for each in table.moments]
    table.runs = [run + by for run in table.runs]
    if table.anchor is not None:
        table.anchor = (table.anchor[0], table.anchor[1] + by)


def shift_to(table: TimeTable, inode: int, start: int, end: int) -> int | None:
    """Return the shift of an earlier daemon's positions to those of a live file; None if unknown.

    The live file has this inode, and its bytes have the positions `start` to `end`.
    """
    if table.anchor is None or table.cutting or table.anchor[0] != inode:
        return None
    shift = start - table.anchor[1]
    if table.moments and table.moments[-1].position + shift > end:
        return None  # replaced or truncated meanwhile
    return shift


def shifted(table: TimeTable, by: int) -> TimeTable:
    """Return the table with all positions grown by a number."""
    _shift(table, by)
    return table


def compact(table: TimeTable, oldest: int) -> Iterator[Record]:
    """Yield the records of a smaller index: without bytes before `oldest`, and coarser for old bytes."""
    moments = table.moments
    # The last moment before the oldest byte stays, as the begin of the next.
    first = max(0, bisect_left(moments, oldest, key=lambda moment: moment.position) - 1)
    moments = moments[first:]
    middle = len(moments) // 2
    kept = [*_every_second(moments[:middle]), *moments[middle:]]
    if table.anchor is not None:
        yield (Kind.ANCHOR, *table.anchor)
    for moment in kept:
        kind = Kind.AFTER_GAP if moment.after_gap else Kind.REACHED
        yield (kind, round(moment.time * 1000.0), moment.position)
    for run in table.runs[-_MOST_RUNS:]:
        yield (Kind.RUN, 0, run)


def _every_second(moments: list[Moment]) -> Iterable[Moment]:
    """Return the moments without every second one; those around gaps stay."""
    if not moments:
        return
    yield moments[0]
    for index, (moment, after) in enumerate(pairwise(moments[1:])):
        if index % 2 or moment.after_gap or after.after_gap:
            yield moment
    if len(moments) > 1:
        yield moments[-1]
