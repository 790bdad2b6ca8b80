"""Streams that resume after lost connections: status, events, log lines.

This module is pure. A stream makes the request of each connection and turns messages into items for its
reader. reconnect.py decides when to reconnect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.calls import MAX_IDS
from hostmanager_client.errors import HostManagerError, InvalidRequest, ServerBug, Unreachable, quoted
from hostmanager_client.receive_limits import LONGEST_LINE_KEPT
from hostmanager_client.seconds import in_seconds
from hostmanager_client.state import HostState, StatusFold, StatusUpdate

Item = TypeVar("Item")

DEFAULT_HEARTBEAT = 15.0
# A connection is dead after a silence of this number of intervals: one heartbeat may be late, not two.
HEARTBEATS_MISSED = 2.5
# After an outage the client asks for the last lines again and drops the known ones.
LINES_ASKED_AGAIN = 500
LINES_REMEMBERED = 100
# The daemon sends old lines in messages of up to 64 KiB; a message of this size is not the last one.
MORE_TO_COME = 32 * 1024


class Stream(ABC, Generic[Item]):
    """One stream for its reader, over all of its connections."""

    method: str
    what: str  # completes "cannot ...", as in "watch the status"
    silence: float | None = None  # s, the longest before the connection counts as dead
    reconnects: bool = True
    changes: bool = False  # changes something on the host, so the request may be sent only once
    undecided: bool = False  # the meaning of the last message depends on the next one

    @abstractmethod
    def request(self) -> Message:
        """Return the request for a new connection."""

    @abstractmethod
    def receive(self, message: Message) -> Sequence[Item]:
        """Return the items of a message; raise ServerBug if the contract forbids the message here."""

    @abstractmethod
    def disconnected(self) -> None:
        """Record the loss of the connection."""

    def ended(self) -> None:
        """Check the end of a stream that does not reconnect; raise ServerBug for an early end."""
        return

    @property
    def complete(self) -> bool:
        """True unless the reader may have missed items during the last outage."""
        return True


class StatusStream(Stream[StatusUpdate]):
    """The state of the host and its changes."""

    method = "WatchStatus"
    what = "watch the status"

    def __init__(
        self, instance_ids: Iterable[str] = (), heartbeat: float = DEFAULT_HEARTBEAT,
        since: HostState | None = None, on_contact: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self._ids, self._wanted = _split_ids(instance_ids)
        self._heartbeat = check_heartbeat(heartbeat)
        self._fold = StatusFold(since)
        self._on_contact = on_contact
        self.silence = heartbeat * HEARTBEATS_MISSED

    def request(self) -> pb.WatchStatusRequest:
        """Return a request that resumes after the last complete state."""
        return pb.WatchStatusRequest(
            instance_ids=self._ids,
            resume_token=self._fold.resume_token,
            heartbeat_interval=self._heartbeat,
        )

    def receive(self, message: Message) -> Sequence[StatusUpdate]:
        """Return the update of a message; raise Unreachable to start over after a broken sequence."""
        assert isinstance(message, pb.WatchStatusResponse)
        if self._wanted is not None:
            _keep_wanted(message, self._wanted)
        try:
            update = self._fold.receive(message)
        except ServerBug as error:
            # The next connection asks for a snapshot, after the pause of the reconnection policy.
            self._fold.start_over()
            raise Unreachable(f"cannot follow the status: {error}; asking for a new snapshot") from error
        if update is None and self._on_contact is not None and message.WhichOneof("update") == "heartbeat":
            self._on_contact()
        return () if update is None else (update,)

    def disconnected(self) -> None:
        """Drop an incomplete snapshot."""
        self._fold.disconnected()


class EventStream(Stream[pb.Event | pb.EventGap]):
    """The events of the host; `wanted` has the fields of `event_filter`."""

    method = "WatchEvents"
    what = "watch the events"

    def __init__(
        self,
        instance_ids: Iterable[str] = (),
        resume_token: str = "",
        heartbeat: float = DEFAULT_HEARTBEAT,
        wanted: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._ids, self._wanted = _split_ids(instance_ids)
        self._filter = wanted
        self._token = resume_token
        self._heartbeat = check_heartbeat(heartbeat)
        self._resumed = True
        self.silence = heartbeat * HEARTBEATS_MISSED

    def request(self) -> pb.WatchEventsRequest:
        """Return a request that resumes after the last event."""
        return pb.WatchEventsRequest(
            instance_ids=self._ids,
            resume_token=self._token,
            heartbeat_interval=self._heartbeat,
            **self._filter,
        )

    def receive(self, message: Message) -> Sequence[pb.Event | pb.EventGap]:
        """Return the gap, if any, and the events of a message."""
        assert isinstance(message, pb.WatchEventsResponse)
        self._resumed = bool(self._token) and not message.HasField("gap")
        self._token = message.resume_token or self._token
        events = [e for e in message.events if self._wanted is None or e.instance_id in self._wanted]
        return (*([message.gap] if message.HasField("gap") else ()), *events)

    def disconnected(self) -> None:
        """Do nothing, as no event is ever incomplete."""

    @property
    def complete(self) -> bool:
        """True if the daemon resumed at the token."""
        return self._resumed


def _split_ids(instance_ids: Iterable[str]) -> tuple[tuple[str, ...], frozenset[str] | None]:
    """Return the ids for the request, and the ids to filter for.

    A request has at most MAX_IDS ids. With more, the request names none, and the client filters the answer.
    """
    ids = tuple(instance_ids)
    return (ids, None) if len(ids) <= MAX_IDS else ((), frozenset(ids))


def _keep_wanted(message: pb.WatchStatusResponse, wanted: frozenset[str]) -> None:
    for part in (message.snapshot, message.delta):  # reading the absent part leaves the message unchanged
        kept = [i for i in part.instances if i.instance_id in wanted]
        if len(kept) < len(part.instances):
            del part.instances[:]
            part.instances.extend(kept)
    # The fold ignores removed ids that the reader does not know.


class LogStream(Stream[pb.LogLine]):
    """The log lines of an instance.

    TailLogs has no resume token, so after an outage the stream finds the overlap of old and new lines.
    """

    method = "TailLogs"

    def __init__(
        self, instance_id: str | None, lines: int | None, *, follow: bool, silence: float | None
    ) -> None:
        """Read the log of an instance; None for the log of the daemon."""
        self.what = f"read the log of {'the daemon' if instance_id is None else quoted(instance_id)}"
        self.reconnects = follow
        # A quiet instance sends no lines, so the keepalive of the channel checks the connection.
        self.silence = None if follow else silence
        self._instance_id = instance_id
        self._lines = lines
        self._follow = follow
        self._recent: deque[str] = deque(maxlen=LINES_REMEMBERED)
        self._count = 0  # whole lines
        self._connected = False
        self._reopened = False
        self._overlapped = True
        self._held: list[pb.LogLine] = []  # repeated lines, until the overlap is known

    def request(self) -> pb.TailLogsRequest:
        """Return a request for the last lines; after an outage for more of them."""
        lines = LINES_ASKED_AGAIN if self._reopened else self._lines
        return pb.TailLogsRequest(
            instance_id=self._instance_id or "",
            lines=lines,
            follow=self._follow,
            daemon=self._instance_id is None,
        )

    def receive(self, message: Message) -> Sequence[pb.LogLine]:
        """Return the new lines of a message; drop the known ones after an outage."""
        assert isinstance(message, pb.TailLogsResponse)
        lines = list(message.lines)
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
        if not self._follow and self._lines is not None:
            self._count += sum(not line.continues for line in lines)
            if self._count > self._lines:
                raise ServerBug(
                    f"cannot {self.what}: the daemon sends more than the requested {self._lines} lines"
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


def check_heartbeat(seconds: float) -> Duration:
    """Return the interval as a message; raise InvalidRequest if out of range."""
    if not 1.0 <= seconds <= 3600.0:
        raise InvalidRequest(
            f"cannot watch with a heartbeat of {in_seconds(seconds)}: the range is 1 s to 3600 s"
        )
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def end_error(stream: Stream[Item], address: str) -> HostManagerError:
    """Return the error of a stream that the daemon ended normally."""
    return Unreachable(f"cannot {stream.what}: the daemon at {address} ended the stream", address=address)


def silence_error(stream: Stream[Item], address: str) -> HostManagerError:
    """Return the error of a stream that was silent for too long."""
    return Unreachable(
        f"cannot {stream.what}: no message from the daemon at {address} for {stream.silence:g} s",
        address=address,
    )
