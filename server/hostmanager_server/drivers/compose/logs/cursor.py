"""Positions in the output of a container, for reading on without gaps or repeats."""

from __future__ import annotations

from hostmanager.values import dataclass, field

from hostmanager_server.drivers.compose.logs.demultiplexer import LineSplitter, LogMessage, OutputLine


@dataclass(slots=True)
class LogCursor:
    """The position up to which one container's output has been read.

    Belongs to the reading thread.
    """

    tail: int | None = None  # number of last lines to begin with; None: all
    at: str = ""  # time of the latest message read, or from which to read; empty: none
    # Number of messages of that time that were read: all parts of a long line share one time. None: all.
    read_at_time: int | None = 0
    lines: LineSplitter = field(default_factory=LineSplitter)
    begun: bool = False  # a message was read

    def take(self, message: LogMessage) -> list[OutputLine]:
        """Advance past a message; return the lines that are complete now."""
        if message.at > self.at:
            # The first message of a tail may be the last part of a long line.
            self.read_at_time = None if self.tail is not None and not self.begun else 1
            self.at = message.at
        elif message.at and message.at == self.at and self.read_at_time is not None:
            self.read_at_time += 1
        self.begun = True
        return self.lines.feed(message)


class RepeatFilter:
    """A filter for messages that the cursor has passed already.

    A request starts at the time of the last message read, so the engine sends messages of that time again.
    """

    def __init__(self, cursor: LogCursor) -> None:
        self._at = cursor.at
        self._remaining = cursor.read_at_time
        self._last_is_new = True  # a continuation counts as the message before

    def __call__(self, message: LogMessage) -> bool:
        """Return whether a message is new."""
        if not message.at:
            return self._last_is_new
        self._last_is_new = message.at > self._at
        if message.at == self._at and self._remaining is not None:
            self._remaining -= 1
            self._last_is_new = self._remaining < 0
        return self._last_is_new
