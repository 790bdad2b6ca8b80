"""The stream of an instance's log lines, which continues after a lost connection.

This module is pure, as streams.py is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.values import dataclass

from hostmanager_client.errors import InvalidRequest, ServerBug, quoted
from hostmanager_client.receive_limits import LONGEST_LINE_KEPT
from hostmanager_client.streams import Stream

MOST_LINES = 100_000  # that the daemon accepts in one request
# After an outage the client asks for the last lines again and drops the known ones.
LINES_ASKED_AGAIN = 500
LINES_REMEMBERED = 100
# The daemon sends old lines in messages of up to 64 KiB; a message of this size is not the last one.
MORE_TO_COME = 32 * 1024


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The wanted lines of an instance; see HostManagerClient.tail_logs."""

    lines: int | None = None
    follow: bool = False
    since: datetime | None = None
    until: datetime | None = None
    previous: bool = False

    def check(self) -> None:
        """Raise InvalidRequest for a contradiction."""
        if self.follow and (self.until is not None or self.previous):
            word = "until" if self.until is not None else "previous"
            raise InvalidRequest(f"cannot read logs: {word} and follow exclude each other")
        if self.since is not None and self.until is not None and _stamp(self.until) < _stamp(self.since):
            raise InvalidRequest("cannot read logs: until lies before since")

    def request(self, instance_id: str | None) -> pb.TailLogsRequest:
        """Return the request for an instance; None for the log of the daemon."""
        lines = self.lines
        if lines is None and (self.since is not None or self.until is not None or self.previous):
            lines = MOST_LINES
        request = pb.TailLogsRequest(
            instance_id=instance_id or "", lines=lines, follow=self.follow, previous=self.previous,
            daemon=instance_id is None,
        )  # fmt: skip
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None:
                seconds, micros = divmod(_stamp(moment), 1_000_000)
                getattr(request, name).CopyFrom(Timestamp(seconds=seconds, nanos=micros * 1000))
        return request


def _stamp(moment: datetime) -> int:
    """Return a time in µs since 1970; a time without a zone is local. Raises InvalidRequest."""
    try:
        micros = round(moment.timestamp() * 1e6)
    except (ValueError, OverflowError, OSError):
        micros = -1
    if micros < 0:
        raise InvalidRequest(f"cannot read logs: {moment.isoformat()} is not a time from 1970 to 9999")
    return micros


class LogStream(Stream[pb.LogLine]):
    """The log lines of an instance.

    TailLogs has no resume token, so after an outage the stream finds the overlap of old and new lines.
    """

    method = "TailLogs"

    def __init__(self, instance_id: str | None, query: LogQuery, *, silence: float | None) -> None:
        """Read the log of an instance; None for the log of the daemon."""
        query.check()
        self.what = f"read the log of {'the daemon' if instance_id is None else quoted(instance_id)}"
        self.reconnects = query.follow
        # A quiet instance sends no lines, so the keepalive of the channel checks the connection.
        self.silence = None if query.follow else silence
        self.on_caught_up: Callable[[], object] | None = None  # called once, before the first new line
        self._request = query.request(instance_id)
        self._limit = self._request.lines if self._request.HasField("lines") and not query.follow else None
        self._recent: deque[str] = deque(maxlen=LINES_REMEMBERED)
        self._count = 0  # whole lines
        self._connected = False
        self._reopened = False
        self._overlapped = True
        self._held: list[pb.LogLine] = []  # repeated lines, until the overlap is known

    def request(self) -> pb.TailLogsRequest:
        """Return a request for the last lines; after an outage for more of them."""
        if self._reopened:
            self._request.lines = LINES_ASKED_AGAIN
        return self._request

    def receive(self, message: Message) -> Sequence[pb.LogLine]:
        """Return the new lines of a message; drop the known ones after an outage."""
        assert isinstance(message, pb.TailLogsResponse)
        lines = list(message.lines)
        if message.caught_up and self.on_caught_up is not None:
            self.on_caught_up()
            self.on_caught_up = None
        self._connected, self._overlapped, self.undecided = True, True, False
        if self._reopened and not lines and self._recent:
            self.undecided = True
        elif self._reopened and lines:
            lines = self._held = [*self._held, *lines]
            skip = overlap(self._recent, [line.text[:LONGEST_LINE_KEPT] for line in lines])
            if skip is None and len(lines) < LINES_ASKED_AGAIN and message.ByteSize() >= MORE_TO_COME:
                self.undecided = True
                return ()
            self._overlapped = skip is not None
            lines, self._held, self._reopened = lines[skip or 0 :], [], False
        self._recent.extend(line.text[:LONGEST_LINE_KEPT] for line in lines)
        if self._limit is not None:
            self._count += sum(not line.continues for line in lines)
            if self._count > self._limit:
                raise ServerBug(
                    f"cannot {self.what}: the daemon sends more than the requested {self._limit} lines"
                )
        return lines

    def disconnected(self) -> None:
        """Drop the repeated lines of an unfinished overlap."""
        self._reopened, self.undecided = self._connected, False
        self._held.clear()

    @property
    def complete(self) -> bool:
        """True if the old lines overlap the known ones."""
        return self._overlapped


def overlap(known: Sequence[str] | deque[str], again: Sequence[str]) -> int | None:
    """Return the number of known lines at the start of `again`; None if there is no overlap.

    The known part ends at the last position in `again` where the lines before are the last lines of `known`,
    as far as `known` reaches. The last position is chosen so that no line appears twice.
    """
    old = list(known)
    if not old:
        return 0
    for end in range(len(again), 0, -1):
        length = min(end, len(old))
        if list(again[end - length : end]) == old[-length:]:
            return end
    return None
