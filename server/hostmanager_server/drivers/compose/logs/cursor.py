"""How far the output of a container has been read."""

from __future__ import annotations

from dataclasses import dataclass, field

from hostmanager_server.drivers.compose.logs.demultiplexer import LineSplitter, LogMessage, OutputLine


@dataclass(slots=True)
class LogCursor:
    """How far one container has been read. Belongs to whoever reads it."""

    tail: int | None = None  # how many lines to begin with; None: all
    at: str = ""  # the latest time of a message that was read; empty: none
    # How many messages of that time were read, for all parts of a long line have it; None: all there are.
    read_at_time: int | None = 0
    lines: LineSplitter = field(default_factory=LineSplitter)

    def take(self, message: LogMessage) -> list[OutputLine]:
        """The lines that are complete now."""
        if message.at > self.at:
            # The first message of a tail may be the last part of its line.
            self.read_at_time = None if self.tail is not None and not self.at else 1
            self.at = message.at
        elif message.at and message.at == self.at and self.read_at_time is not None:
            self.read_at_time += 1
        return self.lines.feed(message)


class RepeatFilter:
    """Tells what has not been read from what comes again: the engine begins with the time that it was asked
    for, that of the last message which was read."""

    def __init__(self, cursor: LogCursor) -> None:
        self._at = cursor.at
        self._remaining = cursor.read_at_time
        self._last_is_new = True  # of the last message: what goes on with it is the same

    def __call__(self, message: LogMessage) -> bool:
        if not message.at:
            return self._last_is_new
        self._last_is_new = message.at > self._at
        if message.at == self._at and self._remaining is not None:
            self._remaining -= 1
            self._last_is_new = self._remaining < 0
        return self._last_is_new
