"""What a container wrote, as the engine keeps it: log messages out of the engine's stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from hostmanager_server.drivers.output.lines import LONGEST_LINE, LineAssembler


class LogsError(Exception):
    """The output cannot be read; the message is for the operator. `lasting`: to try again does not help."""

    def __init__(self, message: str, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


class Source(Enum):
    """Which output of the container it came from."""

    STDOUT = "stdout"
    STDERR = "stderr"
    COMBINED = "combined"  # of a container with a terminal


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One message of the log: a line with its line end, or a part of a long one, all of which have one time.
    `at` as the engine wrote it: RFC 3339 with nine digits of the second, so that later ones are greater as
    texts, too; empty for what goes on with the message before."""

    at: str
    source: Source
    data: bytes


@dataclass(frozen=True, slots=True)
class OutputLine:
    """A line without its end; `continues` when it is a part and the next one goes on."""

    text: str
    continues: bool
    source: Source


_HEADER = 8  # bytes: stream, three of nothing, length (Engine API, "Attach to a container")
_SOURCES = {1: Source.STDOUT, 2: Source.STDERR}
_LONGEST_STAMP = 31  # bytes
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z ")


class Demultiplexer:
    """Makes messages of a stream of the engine's, whatever pieces it comes in. Of a message that is not whole
    there is nothing: it comes again when the stream is asked for again."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._pending = bytearray()
        self._stamp = b""  # of the terminal's line that is being read; empty: it has not begun

    def feed(self, chunk: bytes) -> list[LogMessage]:
        """The messages that are whole now."""
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
        # A line may never end. What is kept back may be the beginning of a stamp.
        if len(pending) > LONGEST_LINE + _LONGEST_STAMP:
            piece = bytes(pending[:-_LONGEST_STAMP])
            del pending[:-_LONGEST_STAMP]
            yield self._piece(piece)

    def _piece(self, data: bytes) -> LogMessage:
        """A line of a terminal, or what there is of one. The engine puts the time of its beginning before
        each of the parts in which it keeps a long line."""
        begins = not self._stamp
        if begins:
            self._stamp = _stamp(data)
        at = _time(self._stamp) if begins else ""
        text = data.replace(self._stamp, b"") if self._stamp else data
        if data.endswith(b"\n"):
            self._stamp = b""
        return LogMessage(at, Source.COMBINED, text)


def _stamp(data: bytes) -> bytes:
    """The time that the engine has put before a message, with the space behind it."""
    found = _STAMP.match(data)
    return found[0] if found else b""


def _time(stamp: bytes) -> str:
    found = _STAMP.match(stamp)
    if found is None:
        return ""
    second, fraction = found[1].decode(), (found[2] or b"").decode()
    return f"{second}.{fraction:0<9}Z"


class LineSplitter:
    """Makes lines of one container's messages; holds at most a part of a line for each output."""

    def __init__(self) -> None:
        self._assemblers: dict[Source, LineAssembler] = {}

    def feed(self, message: LogMessage) -> list[OutputLine]:
        """The lines that are complete now."""
        assembler = self._assemblers.setdefault(message.source, LineAssembler())
        data = message.data
        if message.source is Source.COMBINED:
            data = data.replace(b"\r\n", b"\n")  # a terminal's line end
        return [OutputLine(line.text, line.continues, message.source) for line in assembler.feed(data)]

    def flush(self) -> list[OutputLine]:
        """What there is of lines that have not ended."""
        return [
            OutputLine(line.text, line.continues, source)
            for source, assembler in self._assemblers.items()
            for line in assembler.flush(continues=False)
        ]
