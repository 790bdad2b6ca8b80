"""Lines out of bytes: forward as they come, backward to find where the last ones begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LONGEST_LINE = 64 * 1024  # bytes; a longer one comes in parts


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line without its line end, what is not UTF-8 replaced by U+FFFD. `continues`: the next one is more
    of it."""

    text: str
    continues: bool = False


class LineAssembler:
    """Cuts a stream of bytes into lines, whatever pieces it comes in; holds at most one part of a line."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def holds_a_part(self) -> bool:
        return bool(self._held)

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that are complete now."""
        lines: list[LogLine] = []
        start = 0
        while (stop := data.find(b"\n", start)) >= 0:
            self._hold(data[start:stop], lines)
            lines.append(LogLine(_text(self._held)))
            self._held.clear()
            start = stop + 1
        self._hold(data[start:], lines)
        return lines

    def flush(self, continues: bool) -> list[LogLine]:
        """What there is of a line that has not ended; all of it, even half a character."""
        if not self._held:
            return []
        line = LogLine(_text(self._held), continues)
        self._held.clear()
        return [line]

    def _hold(self, data: bytes, lines: list[LogLine]) -> None:
        self._held += data
        while len(self._held) > LONGEST_LINE:
            stop = _character_start(self._held, LONGEST_LINE)
            lines.append(LogLine(_text(self._held[:stop]), continues=True))
            del self._held[:stop]


def _text(data: bytearray) -> str:
    return data.decode("utf-8", errors="replace")


def _character_start(data: bytearray, near: int) -> int:
    """Where the character begins that the byte at `near` belongs to; `near` when that is no UTF-8."""
    for start in range(near, near - 4, -1):
        if data[start] & 0xC0 != 0x80:  # not a continuation byte
            return start
    return near


class LastLines:
    """Searches backward, block by block, for where the last `lines` lines before `end` begin; a last one
    without a line end counts.

    `read_before(position, limit)` reads what ends at a position, and nothing when there is no more. Reads no
    further back than it must, `block` bytes at a time.
    """

    def __init__(
        self, read_before: Callable[[int, int], bytes], end: int, lines: int, block: int = 1024 * 1024
    ) -> None:
        self._read_before = read_before
        self._end = self._position = end
        self._wanted = lines
        self._block = block

    def step(self) -> int | None:
        """Look at one more block: the position, once it is known."""
        if self._wanted <= 0:
            return self._position
        data = self._read_before(self._position, self._block)
        if not data:
            return self._position
        stop = len(data)
        if self._position == self._end and data.endswith(b"\n"):
            stop -= 1  # ends the last line, does not begin another
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
    """What LastLines finds."""
    search = LastLines(read_before, end, lines, block)
    while (position := search.step()) is None:
        pass
    return position


def _line_end(data: bytes, skip: int) -> int:
    """Position of the line end that follows the first `skip` of them. Halves what is left to look at, for an
    empty line is one byte, and a block has room for 100,000."""
    start, stop = 0, len(data)
    while stop - start > 1:
        middle = (start + stop) // 2
        ends = data.count(b"\n", start, middle)
        if ends > skip:
            stop = middle
        else:
            start, skip = middle, skip - ends
    return start
