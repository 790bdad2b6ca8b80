"""Line splitting of byte streams: forward as bytes arrive, backward to find the last lines."""

from __future__ import annotations

from collections.abc import Callable

from hostmanager.values import dataclass, field

LONGEST_LINE = 64 * 1024  # bytes; a longer line is split into parts


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line without its line end, with U+FFFD for bytes that are not UTF-8.

    `continues` is True when the next LogLine is a part of the same line. `time`, in s since 1970: when the
    line was written; 0 if unknown.
    """

    text: str
    continues: bool = False
    time: float = field(default=0.0, compare=False)


class LineAssembler:
    """A splitter of byte streams into lines, independent of the pieces that arrive.

    The assembler holds at most one part of a line.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._time = 0.0  # of the held bytes

    @property
    def holds_partial_line(self) -> bool:
        """Whether the last line has not ended yet."""
        return bool(self._held)

    def feed(self, data: bytes, time: float = 0.0) -> list[LogLine]:
        """Add bytes, written at a time, and return the lines that are complete now."""
        lines: list[LogLine] = []
        start = 0
        while (stop := data.find(b"\n", start)) >= 0:
            self._hold(data[start:stop], lines, time)
            lines.append(LogLine(_text(self._held), time=time))
            self._held.clear()
            start = stop + 1
        self._hold(data[start:], lines, time)
        return lines

    def flush(self, *, continues: bool) -> list[LogLine]:
        """Return all bytes of an unfinished line, even half a character, and hold nothing.

        `continues` marks the part as one that later bytes extend.
        """
        if not self._held:
            return []
        line = LogLine(_text(self._held), continues, self._time)
        self._held.clear()
        return [line]

    def _hold(self, data: bytes, lines: list[LogLine], time: float) -> None:
        self._held += data
        self._time = time
        while len(self._held) > LONGEST_LINE:
            stop = _character_start(self._held, LONGEST_LINE)
            lines.append(LogLine(_text(self._held[:stop]), True, time))
            del self._held[:stop]


def _text(data: bytearray) -> str:
    return data.decode("utf-8", errors="replace")


def _character_start(data: bytearray, near: int) -> int:
    """Return where the character of the byte at `near` begins; `near` for bytes that are not UTF-8."""
    for start in range(near, near - 4, -1):
        if data[start] & 0xC0 != 0x80:  # not a continuation byte
            return start
    return near


class LastLines:
    """A backward search, block by block, for the beginning of the last `lines` lines before `end`.

    A last line without a line end counts. `read_before(position, limit)` returns at most `limit` bytes that
    end at a position, or none at the beginning. The search reads no further back than necessary, `block`
    bytes at a time.
    """

    def __init__(
        self, read_before: Callable[[int, int], bytes], end: int, lines: int, block: int = 1024 * 1024
    ) -> None:
        """Start a search at position `end`, without reading."""
        self._read_before = read_before
        self._end = self._position = end
        self._wanted = lines
        self._block = block

    def step(self) -> int | None:
        """Search one more block; return the position of the first line, or None to go on."""
        if self._wanted <= 0:
            return self._position
        data = self._read_before(self._position, self._block)
        if not data:
            return self._position
        stop = len(data)
        if self._position == self._end and data.endswith(b"\n"):
            stop -= 1  # this line end closes the last line and begins no other
        ends = data.count(b"\n", 0, stop)
        start = self._position - len(data)
        if ends >= self._wanted:
            return start + _line_end(data, ends - self._wanted) + 1
        self._wanted -= ends
        self._position = start
        return None


def start_of_last(
    read_before: Callable[[int, int], bytes], end: int, lines: int, block: int = 256 * 1024
) -> int:
    """Return the position that a complete search with LastLines finds."""
    search = LastLines(read_before, end, lines, block)
    while (position := search.step()) is None:
        pass
    return position


def _line_end(data: bytes, skip: int) -> int:
    """Return the position of the line end after the first `skip` line ends.

    The function bisects, as a block may hold a line end in every byte.
    """
    start, stop = 0, len(data)
    while stop - start > 1:
        middle = (start + stop) // 2
        ends = data.count(b"\n", start, middle)
        if ends > skip:
            stop = middle
        else:
            start, skip = middle, skip - ends
    return start
