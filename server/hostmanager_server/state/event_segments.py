"""The files of the remembered events: segments that grow one after another, and go as a whole."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.linux.trusted_paths import make_private_directory, open_own_file
from hostmanager_server.state.event_lines import sequence_of

EVENTS_REMEMBERED = 100_000
_DAY = 86_400.0  # s
_TAIL = 64 * 1024  # bytes; more than any line
_LARGEST = 16 * 1024 * 1024  # bytes of a segment; the daemon writes far smaller ones
_NAME = re.compile(r"([0-9]{16})\.jsonl")


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Bounds of the remembered events; ages are in s, sizes in bytes.

    A new segment begins after `segment_events`, `segment_size` or `segment_age`. Whole segments go when
    newer ones hold `events`, when all take more than `size`, or when their last event is older than `age`.
    """

    events: int = EVENTS_REMEMBERED
    age: float = 30 * _DAY
    size: int = 64 * 1024 * 1024
    segment_events: int = 1000
    segment_size: int = 512 * 1024
    segment_age: float = _DAY


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of events; `first` is the sequence number of its first event."""

    first: int
    path: Path

    def lines(self) -> list[bytes]:
        """Return the whole lines, without their ends; none if the file is gone or cannot be read."""
        return read_file(self.path).split(b"\n")[:-1]

    def last_change(self) -> float:
        """Return when the file last grew, as Unix time in s; 0 if the file is gone."""
        with suppress(OSError):
            return self.path.lstat().st_mtime
        return 0.0


def segments_in(folder: Path) -> list[Segment]:
    """Return the segments, oldest first; none if the folder is missing."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    matches = filter(None, map(_NAME.fullmatch, names))
    return sorted((Segment(int(m[1]), folder / m[0]) for m in matches), key=lambda each: each.first)


def read_file(path: Path, *, tail: int | None = None) -> bytes:
    """Return the content of a segment, or its last `tail` bytes; empty if the file cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        size = min(status.st_size, _LARGEST if tail is None else tail)
        return os.pread(descriptor, size, status.st_size - size if tail is not None else 0)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def last_sequence(folder: Path) -> int:
    """Return the number of the newest event, 0 without any; reads only the end of the newest segment."""
    for segment in reversed(segments_in(folder)):
        for content in (read_file(segment.path, tail=_TAIL), read_file(segment.path)):
            numbers = (sequence_of(line) for line in reversed(content.split(b"\n")))
            newest = next((number for number in numbers if number is not None), None)
            if newest is not None:
                return newest
        if segment.first > 1:
            return segment.first - 1  # nothing in the segment can be read
    return 0


class SegmentWriter:
    """The end of the newest segment. For one thread; methods raise OSError, and may be called again."""

    def __init__(self, folder: Path, limits: EventLimits = EventLimits()) -> None:  # noqa: B008 - frozen
        self._folder = folder
        self._limits = limits
        self._descriptor = -1
        self._path = folder
        self._size = 0
        self._first = 0
        self._began = 0.0  # when this writer opened the segment

    def append(self, lines: list[bytes], header: bytes, first: int, now: float) -> None:
        """Write lines, of which the first event has the number `first`; all of them or none.

        `header` begins every new segment. `now` is the Unix time in s.
        """
        data = b"".join(lines)
        if not self._fits(len(data), first, now):
            self._begin(header, first, now)
        whole, self._size = self._size, self._size + len(data)
        try:
            _write(self._descriptor, data)
        except OSError:
            self._size = whole
            with suppress(OSError):
                os.ftruncate(self._descriptor, whole)  # otherwise the next daemon skips the torn line
            self.close()
            raise

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        if self._descriptor >= 0:
            os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _fits(self, size: int, first: int, now: float) -> bool:
        limits = self._limits
        if self._descriptor < 0 or not self._is_in_place():
            return False
        full = self._size and self._size + size > limits.segment_size
        old = not self._began <= now < self._began + limits.segment_age
        return not (full or old or first - self._first >= limits.segment_events)

    def _is_in_place(self) -> bool:
        """Return whether the open file still has its name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.lstat())
        except OSError:
            return False

    def _begin(self, header: bytes, first: int, now: float) -> None:
        """Continue the newest segment of an earlier daemon if there is room, else begin the next."""
        self.close()
        make_private_directory(self._folder)
        known = segments_in(self._folder)
        continued = not self._began and known and first - known[-1].first < self._limits.segment_events
        self._first = known[-1].first if continued else first
        self._path = self._folder / f"{self._first:016d}.jsonl"
        self._descriptor = open_own_file(self._path, os.O_RDWR | os.O_APPEND)
        self._began = now
        self._size = os.fstat(self._descriptor).st_size
        torn = self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n"
        begin = (b"\n" if torn else b"") + header
        _write(self._descriptor, begin)
        self._size += len(begin)
        self._drop_old(segments_in(self._folder), first, now)

    def _drop_old(self, segments: list[Segment], first: int, now: float) -> None:
        """Remove the segments beyond the limits, but never the newest."""
        limits, size = self._limits, 0
        followers: Iterator[Segment | None] = iter([None, *reversed(segments)])
        for segment, follower in zip(reversed(segments), followers, strict=False):
            try:
                status = segment.path.lstat()
            except OSError:
                continue
            size += status.st_size
            if follower is None:
                continue
            many = follower.first <= first - limits.events
            if many or size > limits.size or status.st_mtime < now - limits.age:
                with suppress(OSError):
                    segment.path.unlink()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
