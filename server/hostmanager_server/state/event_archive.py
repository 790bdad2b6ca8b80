"""The remembered events of all lives of the daemon, as readers see them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.core.event_selection import EventSelection
from hostmanager_server.state.event_lines import EpochMark, LineFilter, decode_entry, decode_mark, sequence_of
from hostmanager_server.state.event_segments import Segment, last_sequence, segments_in
from hostmanager_server.state.store import Events, PublishedEntry

# A segment that last grew this long before the wanted time holds nothing of it, even after corrections of
# the clock; in s.
_CLOCK_MARGIN = 300.0


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a reader of an earlier epoch continues.

    `lossy`: a daemon died since, and may have lost events.
    """

    sequence: int
    lossy: bool


class EventArchive:
    """The files of events in a folder. Any thread may call any method.

    No method raises: the archive lacks events that cannot be read.
    """

    def __init__(self, folder: Path, epoch: str) -> None:
        """Look at the end of the newest file only; `epoch` names the life of this daemon."""
        self.folder = folder
        self.epoch = epoch
        self.last = last_sequence(folder)  # the number of the newest event of earlier daemons

    @property
    def oldest(self) -> int:
        """The number of the oldest event in the files, or of the next event."""
        segments = segments_in(self.folder)
        return segments[0].first if segments else self.last + 1

    def after(self, sequence: int, before: int, selection: EventSelection, limit: int) -> Events:
        """Return at most `limit` selected events between two numbers, oldest first.

        `missed` counts the events in between that the archive lacks, selected or not.
        """
        found: list[PublishedEntry] = []
        wanted, position, missed = LineFilter(selection), sequence, 0
        segments = segments_in(self.folder)
        for segment, follower in zip(segments, chain(segments[1:], [None]), strict=False):
            if follower is not None and follower.first <= position + 1:
                continue
            if _is_older(segment, selection):
                position = follower.first - 1 if follower is not None else position
                continue
            for line in segment.lines():
                number = sequence_of(line)
                if number is None or not position < number < before:
                    continue
                missed += number - position - 1
                position = number
                if not wanted.may_take(line):
                    continue
                published = self._decoded(line)
                if published is None:
                    missed += 1
                elif selection.takes(published.entry):
                    found.append(published)
                    if len(found) == limit:
                        return Events(tuple(found), missed, position)
        missed += max(0, before - 1 - position)
        return Events(tuple(found), missed, max(position, before - 1))

    def newest(self, before: int, selection: EventSelection) -> Iterator[PublishedEntry]:
        """Yield the selected events with lesser numbers, newest first."""
        wanted, position = LineFilter(selection), before
        for segment in reversed(segments_in(self.folder)):
            if segment.first >= before or _is_older(segment, selection):
                continue
            for line in reversed(segment.lines()):
                number = sequence_of(line)
                if number is None or not 0 < number < position:
                    continue
                position = number
                published = self._decoded(line) if wanted.may_take(line) else None
                if published is not None and selection.takes(published.entry):
                    yield published

    def _decoded(self, line: bytes) -> PublishedEntry | None:
        try:
            return decode_entry(line, epoch_begin=self.last + 1)
        except ValueError:
            return None  # damaged: only this event is lost

    def resume(self, epoch: str, position: int) -> Resumption | None:
        """Return where a reader of an earlier epoch continues; None for an unknown epoch."""
        end = self.last
        later: dict[str, bool] = {}  # by epoch: whether that life ended in order
        for mark in self._newest_marks():
            if mark.epoch == epoch:
                in_order = mark.closed and all(ended for each, ended in later.items() if each != self.epoch)
                return Resumption(min(position, end), lossy=not in_order)
            later[mark.epoch] = mark.closed or later.get(mark.epoch, False)
            if not mark.closed:
                end = mark.sequence - 1
        return None

    def _newest_marks(self) -> Iterator[EpochMark]:
        for segment in reversed(segments_in(self.folder)):
            yield from filter(None, map(decode_mark, reversed(segment.lines())))


def _is_older(segment: Segment, selection: EventSelection) -> bool:
    """Return whether a segment cannot hold events of the wanted time."""
    return selection.since is not None and segment.last_change() < selection.since - _CLOCK_MARGIN
