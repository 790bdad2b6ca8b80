"""The streams that are followed over lost connections: status, events, log lines.

Pure: a stream says what to ask when a connection is opened, and turns the messages that come into what its
reader wants. It knows no connection; reconnect.py decides when there is to be a new one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.calls import MAX_IDS
from hostmanager_client.errors import HostManagerError, InvalidRequest, ServerBug, Unreachable
from hostmanager_client.limits import LONGEST_LINE_KEPT
from hostmanager_client.seconds import in_seconds
from hostmanager_client.state import HostState, StatusFold, StatusUpdate

Item = TypeVar("Item")

DEFAULT_HEARTBEAT = 15.0
# Silence longer than so many heartbeat intervals is a dead connection: one may be late, two in a row are not.
HEARTBEATS_MISSED = 2.5
# After an outage the last lines are asked for again, and those that were seen are left out.
LINES_ASKED_AGAIN = 500
LINES_REMEMBERED = 100
# The daemon sends old lines in messages of up to 64 KiB: one that is as large as this is not the last one.
MORE_TO_COME = 32 * 1024


class Stream(ABC, Generic[Item]):
    """One stream as its reader means it, over all of its connections."""

    method: str
    what: str  # as in "cannot watch the status"
    silence: float | None = None  # the longest, in s, before the connection counts as dead
    reconnects: bool = True
    changes: bool = False  # something on the host; a stream that does may be opened only once
    undecided: bool = False  # after a message came: what it means is known only with the next one

    @abstractmethod
    def request(self) -> Message:
        """What to ask when a connection is opened."""

    @abstractmethod
    def receive(self, message: Message) -> Sequence[Item]:
        """What a message means to the reader. Raises ServerBug when it cannot come at this place."""

    @abstractmethod
    def disconnected(self) -> None:
        """The connection is gone."""

    def ended(self) -> None:
        """The daemon ended a stream that does not reconnect. Raises when that cannot be its end."""
        return

    @property
    def complete(self) -> bool:
        """After a message came: whether the reader has missed nothing over the last disconnection."""
        return True


class StatusStream(Stream[StatusUpdate]):
    method = "WatchStatus"
    what = "watch the status"

    def __init__(
        self, instance_ids: Iterable[str] = (), heartbeat: float = DEFAULT_HEARTBEAT,
        since: HostState | None = None,
    ) -> None:  # fmt: skip
        self._ids, self._wanted = _split_ids(instance_ids)
        self._heartbeat = check_heartbeat(heartbeat)
        self._fold = StatusFold(since)
        self.silence = heartbeat * HEARTBEATS_MISSED

    def request(self) -> pb.WatchStatusRequest:
        return pb.WatchStatusRequest(
            instance_ids=self._ids,
            resume_token=self._fold.resume_token,
            heartbeat_interval=self._heartbeat,
        )

    def receive(self, message: Message) -> Sequence[StatusUpdate]:
        assert isinstance(message, pb.WatchStatusResponse)
        if self._wanted is not None:
            _keep_wanted(message, self._wanted)
        try:
            update = self._fold.receive(message)
        except ServerBug as error:
            # What cannot be folded is asked for afresh; the pauses between the attempts keep that civil.
            self._fold.start_over()
            raise Unreachable(f"lost track of the status: {error}; asking for all of it again") from error
        return () if update is None else (update,)

    def disconnected(self) -> None:
        self._fold.disconnected()


class EventStream(Stream[pb.Event | pb.EventGap]):
    method = "WatchEvents"
    what = "watch the events"

    def __init__(
        self, instance_ids: Iterable[str] = (), resume_token: str = "", heartbeat: float = DEFAULT_HEARTBEAT
    ) -> None:
        self._ids, self._wanted = _split_ids(instance_ids)
        self._token = resume_token
        self._heartbeat = check_heartbeat(heartbeat)
        self._resumed = True
        self.silence = heartbeat * HEARTBEATS_MISSED

    def request(self) -> pb.WatchEventsRequest:
        return pb.WatchEventsRequest(
            instance_ids=self._ids, resume_token=self._token, heartbeat_interval=self._heartbeat
        )

    def receive(self, message: Message) -> Sequence[pb.Event | pb.EventGap]:
        assert isinstance(message, pb.WatchEventsResponse)
        self._resumed = bool(self._token) and not message.HasField("gap")
        self._token = message.resume_token or self._token
        events = [e for e in message.events if self._wanted is None or e.instance_id in self._wanted]
        return (*([message.gap] if message.HasField("gap") else ()), *events)

    def disconnected(self) -> None:
        pass  # events are whole: there is nothing unfinished to forget

    @property
    def complete(self) -> bool:
        return self._resumed


def _split_ids(instance_ids: Iterable[str]) -> tuple[tuple[str, ...], frozenset[str] | None]:
    """The ids to ask the daemon for; when they are more than a request may name all are asked for, and these
    have to be picked out."""
    ids = tuple(instance_ids)
    return (ids, None) if len(ids) <= MAX_IDS else ((), frozenset(ids))


def _keep_wanted(message: pb.WatchStatusResponse, wanted: frozenset[str]) -> None:
    for part in (message.snapshot, message.delta):  # the one that is absent is empty, and stays absent
        kept = [i for i in part.instances if i.instance_id in wanted]
        if len(kept) < len(part.instances):
            del part.instances[:]
            part.instances.extend(kept)
    # Ids that went and were not wanted are unknown to the reader, and ignored.


class LogStream(Stream[pb.LogLine]):
    """TailLogs has no resume token: after an outage the overlap of old lines and new is searched for."""

    method = "TailLogs"

    def __init__(self, instance_id: str, lines: int | None, *, follow: bool, silence: float | None) -> None:
        self.what = f"read the log of {instance_id!r}"
        self.reconnects = follow
        # A follower hears nothing while the instance writes nothing: the keepalive of the channel watches.
        self.silence = None if follow else silence
        self._instance_id = instance_id
        self._lines = lines
        self._follow = follow
        self._seen: deque[str] = deque(maxlen=LINES_REMEMBERED)
        self._come = 0  # whole lines
        self._connected = False
        self._reopened = False
        self._overlapped = True
        self._held: list[pb.LogLine] = []  # old lines, until it is known which of them were seen

    def request(self) -> pb.TailLogsRequest:
        lines = LINES_ASKED_AGAIN if self._reopened else self._lines
        return pb.TailLogsRequest(instance_id=self._instance_id, lines=lines, follow=self._follow)

    def receive(self, message: Message) -> Sequence[pb.LogLine]:
        assert isinstance(message, pb.TailLogsResponse)
        lines = list(message.lines)
        self._connected, self._overlapped, self.undecided = True, True, False
        if self._reopened and not lines and self._seen:
            self.undecided = True
        elif self._reopened and lines:
            lines = self._held = [*self._held, *lines]
            skip = overlap(self._seen, [line.text[:LONGEST_LINE_KEPT] for line in lines])
            if skip is None and len(lines) < LINES_ASKED_AGAIN and message.ByteSize() >= MORE_TO_COME:
                self.undecided = True
                return ()
            self._overlapped = skip is not None
            lines, self._held, self._reopened = lines[skip or 0 :], [], False
        self._seen.extend(line.text[:LONGEST_LINE_KEPT] for line in lines)
        if not self._follow and self._lines is not None:
            self._come += sum(not line.continues for line in lines)
            if self._come > self._lines:
                raise ServerBug(
                    f"cannot {self.what}: the daemon sends more than the {self._lines} lines asked for"
                )
        return lines

    def disconnected(self) -> None:
        self._reopened, self.undecided = self._connected, False
        self._held.clear()

    @property
    def complete(self) -> bool:
        return self._overlapped


def overlap(seen: Sequence[str] | deque[str], again: Sequence[str]) -> int | None:
    """How many lines at the start of `again` were seen already. None when that cannot be told.

    The newest place counts where all lines of `again` before it, as far as `seen` reaches, are the last
    ones of `seen`: rather that than show lines twice.
    """
    old = list(seen)
    if not old:
        return 0
    for end in range(len(again), 0, -1):
        length = min(end, len(old))
        if list(again[end - length : end]) == old[-length:]:
            return end
    return None


def check_heartbeat(seconds: float) -> Duration:
    if not 1.0 <= seconds <= 3600.0:
        raise InvalidRequest(f"cannot watch with a heartbeat of {in_seconds(seconds)}: it is 1 s to 3600 s")
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def end_error(stream: Stream[Item], address: str) -> HostManagerError:
    """The error of a stream that the daemon ended in good order."""
    return Unreachable(
        f"cannot {stream.what} any longer: the daemon at {address} ended the stream", address=address
    )


def silence_error(stream: Stream[Item], address: str) -> HostManagerError:
    """The error of a stream on which nothing came for too long."""
    return Unreachable(
        f"cannot {stream.what} any longer: no word from the daemon at {address} for {stream.silence:g} s",
        address=address,
    )
