"""How far the output of a container has been read."""

from __future__ import annotations

from dataclasses import dataclass, field

from hostmanager_server.drivers.compose.logs.demultiplexer import LinesOf, Message, OutputLine


@dataclass(slots=True)
class Place:
    """How far one container has been read. Belongs to whoever reads it."""

    tail: int | None = None  # how many lines to begin with; None: all
    at: str = ""  # the latest time of a message that was read; empty: none
    # How many messages of that time were read, for all parts of a long line have it; None: all there are.
    seen: int | None = 0
    lines: LinesOf = field(default_factory=LinesOf)

    def take(self, message: Message) -> list[OutputLine]:
        """The lines that are complete now."""
        if message.at > self.at:
            # The first message of a tail may be the last part of its line.
            self.seen = None if self.tail is not None and not self.at else 1
            self.at = message.at
        elif message.at and message.at == self.at and self.seen is not None:
            self.seen += 1
        return self.lines.feed(message)


class Fresh:
    """Tells what has not been read from what comes again: the engine begins with the time that it was asked
    for, that of the last message which was read."""

    def __init__(self, place: Place) -> None:
        self._at = place.at
        self._left = place.seen
        self._fresh = True  # of the last message: what goes on with it is the same

    def __call__(self, message: Message) -> bool:
        if not message.at:
            return self._fresh
        self._fresh = message.at > self._at
        if message.at == self._at and self._left is not None:
            self._left -= 1
            self._fresh = self._left < 0
        return self._fresh
