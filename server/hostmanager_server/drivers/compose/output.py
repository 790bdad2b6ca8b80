"""What a container wrote, as the engine keeps it: log messages out of the engine's stream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from hostmanager_server.drivers.log_lines import LineAssembler


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
class Message:
    """One message of the log: a line with its line end, or a part of a long one. `at` as the engine wrote it:
    RFC 3339 with nine digits of the second, so that later ones are greater as texts, too."""

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
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z ")


def messages(chunks: Iterable[bytes], *, tty: bool) -> Iterator[Message]:
    """The messages of a stream of the engine's, whatever pieces it comes in. What is cut off at its end is
    dropped: it comes again when the stream is asked for again."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        yield from _lines(held) if tty else _frames(held)


def _frames(held: bytearray) -> Iterator[Message]:
    start = 0
    while len(held) - start >= _HEADER:
        length = int.from_bytes(held[start + 4 : start + _HEADER], "big")
        stop = start + _HEADER + length
        if len(held) < stop:
            break
        yield _message(bytes(held[start + _HEADER : stop]), _SOURCES.get(held[start], Source.STDOUT))
        start = stop
    del held[:start]


def _lines(held: bytearray) -> Iterator[Message]:
    start = 0
    while (stop := held.find(b"\n", start)) >= 0:
        yield _message(bytes(held[start : stop + 1]), Source.COMBINED)
        start = stop + 1
    del held[:start]


def _message(data: bytes, source: Source) -> Message:
    stamp = _STAMP.match(data)
    if stamp is None:
        return Message("", source, data)
    second, fraction = stamp[1].decode(), (stamp[2] or b"").decode()
    return Message(f"{second}.{fraction:0<9}Z", source, data[stamp.end() :])


class LinesOf:
    """Makes lines of one container's messages; holds at most a part of a line for each output."""

    def __init__(self) -> None:
        self._assemblers: dict[Source, LineAssembler] = {}

    def feed(self, message: Message) -> list[OutputLine]:
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
