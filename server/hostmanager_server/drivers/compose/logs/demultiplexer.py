"""Log messages from the engine's output stream of a container."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum

from hostmanager.values import dataclass, field

from hostmanager_server.drivers.output.lines import LONGEST_LINE, LineAssembler


class LogsError(Exception):
    """Output that cannot be read; the message is for the operator.

    `lasting`: another attempt would fail, too.
    """

    def __init__(self, message: str, *, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


class Source(Enum):
    """The output stream of a line."""

    STDOUT = "stdout"
    STDERR = "stderr"
    COMBINED = "combined"  # the only stream of a container with a terminal


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One message of the log: a line with its line end, or a part of a long line.

    All parts of a line have the same time. `at` is the engine's time in RFC 3339 with nine digits of the
    second, so that times compare as text; empty for a continuation of the message before.
    """

    at: str
    source: Source
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputLine:
    """A line without its line end; `continues` when the next line is its rest.

    `time`: of the engine, in s since 1970; 0 if unknown.
    """

    text: str
    continues: bool
    source: Source
    time: float = field(default=0.0, compare=False)


_HEADER = 8  # bytes: stream, three zeros, length (Engine API, "Attach to a container")
_SOURCES = {1: Source.STDOUT, 2: Source.STDERR}
_LONGEST_STAMP = 31  # bytes
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z ")


class Demultiplexer:
    """A parser that turns chunks of the engine's stream into messages.

    The cuts between chunks do not matter.

    An incomplete message at the end is dropped: the next request for the stream returns it again.
    """

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._pending = bytearray()
        self._stamp = b""  # time of the current line of a terminal; empty: between lines

    def feed(self, chunk: bytes) -> list[LogMessage]:
        """Add a chunk; return the messages that are complete now."""
        self._pending += chunk
        return list(self._lines() if self._tty else self._frames())

    def _frames(self) -> Iterator[LogMessage]:
        pending, start = self._pending, 0
        while len(pending) - start >= _HEADER:
            length = int.from_bytes(pending[start + 4 : start + _HEADER], "big")
            stop = start + _HEADER + length
            if len(pending) < stop:
                break
            data = bytes(pending[start + _HEADER : stop])
            stamp = _stamp(data)
            source = _SOURCES.get(pending[start], Source.STDOUT)
            yield LogMessage(_time(stamp), source, data.removeprefix(stamp))
            start = stop
        del pending[:start]

    def _lines(self) -> Iterator[LogMessage]:
        pending, start = self._pending, 0
        while (stop := pending.find(b"\n", start)) >= 0:
            yield self._piece(bytes(pending[start : stop + 1]))
            start = stop + 1
        del pending[:start]
        # A line may never end, so emit parts. The bytes kept back may be the beginning of a stamp.
        if len(pending) > LONGEST_LINE + _LONGEST_STAMP:
            piece = bytes(pending[:-_LONGEST_STAMP])
            del pending[:-_LONGEST_STAMP]
            yield self._piece(piece)

    def _piece(self, data: bytes) -> LogMessage:
        """Return a message with a line, or a part of a line, of a terminal.

        The engine stores a long line in parts, and puts the line's time before each part.
        """
        begins = not self._stamp
        if begins:
            self._stamp = _stamp(data)
        at = _time(self._stamp) if begins else ""
        text = data.replace(self._stamp, b"") if self._stamp else data
        if data.endswith(b"\n"):
            self._stamp = b""
        return LogMessage(at, Source.COMBINED, text)


def _stamp(data: bytes) -> bytes:
    """Return the time before a message, with the following space."""
    found = _STAMP.match(data)
    return found[0] if found else b""


def _time(stamp: bytes) -> str:
    found = _STAMP.match(stamp)
    if found is None:
        return ""
    second, fraction = found[1].decode(), (found[2] or b"").decode()
    return f"{second}.{fraction:0<9}Z"


def engine_time(text: str) -> str:
    """Return a time of the engine as in LogMessage; empty for another text."""
    return _time(f"{text} ".encode())


def engine_time_of(seconds: float) -> str:
    """Return a time in s since 1970 as in LogMessage."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def seconds_of(at: str) -> float:
    """Return a time as in LogMessage in s since 1970; 0 for none, as the year 1 of the engine."""
    if at < "1970":
        return 0.0
    return datetime.fromisoformat(f"{at[:26]}+00:00").timestamp()


class LineSplitter:
    """A splitter of one container's messages into lines.

    The splitter holds at most one partial line per output.
    """

    def __init__(self) -> None:
        self._assemblers: dict[Source, LineAssembler] = {}
        self._time = 0.0  # of the latest message with a time

    def feed(self, message: LogMessage) -> list[OutputLine]:
        """Add a message; return the lines that are complete now."""
        assembler = self._assemblers.setdefault(message.source, LineAssembler())
        data = message.data
        if message.source is Source.COMBINED:
            data = data.replace(b"\r\n", b"\n")  # a terminal's line end
        if message.at:
            self._time = seconds_of(message.at)
        found = assembler.feed(data, self._time)
        return [OutputLine(line.text, line.continues, message.source, line.time) for line in found]

    def flush(self) -> list[OutputLine]:
        """Return the partial lines, and forget them."""
        return [
            OutputLine(line.text, line.continues, source, line.time)
            for source, assembler in self._assemblers.items()
            for line in assembler.flush(continues=False)
        ]
