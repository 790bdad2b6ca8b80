"""Streams that resume after lost connections: status, events, log lines.

This module is pure. A stream makes the request of each connection and turns messages into items for its
reader. reconnect.py decides when to reconnect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.calls import MAX_IDS, check_combination
from hostmanager_client.errors import HostManagerError, InvalidRequest, ServerBug, Unreachable
from hostmanager_client.seconds import in_seconds
from hostmanager_client.selectors import split
from hostmanager_client.state import HostState, StatusFold, StatusUpdate

Item = TypeVar("Item")

DEFAULT_HEARTBEAT = 15.0
DEFAULT_USAGE_INTERVAL = 2.0
# A connection is dead after a silence of this number of intervals: one heartbeat may be late, not two.
HEARTBEATS_MISSED = 2.5


class Stream(ABC, Generic[Item]):
    """One stream for its reader, over all of its connections."""

    method: str
    what: str  # completes "cannot ...", as in "watch the status"
    silence: float | None = None  # s, the longest before the connection counts as dead
    reconnects: bool = True
    changes: bool = False  # changes something on the host, so the request may be sent only once
    undecided: bool = False  # the meaning of the last message depends on the next one

    cancelled: bool = False  # by another thread; the reader gets no further item
    cancel_call: Callable[[], object] | None = None  # of the present connection

    def cancel(self) -> None:
        """End the stream; any thread may call."""
        self.cancelled = True
        if (cancel := self.cancel_call) is not None:
            cancel()

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
        since: HostState | None = None, on_contact: Callable[[], None] | None = None, *,
        failing: bool = False,
    ) -> None:  # fmt: skip
        self._ids, self._selectors, self._wanted = _split_ids(instance_ids)
        self._failing = failing
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
            selectors=self._selectors,
            failing=self._failing,
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


class UsageStream(Stream[pb.WatchUsageResponse]):
    """Measurements of what instances use."""

    method = "WatchUsage"
    what = "watch the usage"

    def __init__(
        self,
        instance_ids: Iterable[str] = (),
        interval: float = DEFAULT_USAGE_INTERVAL,
        *,
        failing: bool = False,
    ) -> None:
        self._ids, self._selectors, self._wanted = _split_ids(instance_ids)
        if not 0.5 <= interval <= 60.0:
            raise InvalidRequest(
                f"cannot watch the usage every {in_seconds(interval)}: the range is 0.5 s to 60 s"
            )
        self._interval = Duration()
        self._interval.FromNanoseconds(round(interval * 1e9))
        self._failing = failing
        # A daemon with many processes measures less often.
        self.silence = (interval + DEFAULT_HEARTBEAT) * HEARTBEATS_MISSED

    def request(self) -> pb.WatchUsageRequest:
        """Return the request, which has no position to resume from."""
        return pb.WatchUsageRequest(
            instance_ids=self._ids, selectors=self._selectors, failing=self._failing, interval=self._interval
        )

    def receive(self, message: Message) -> Sequence[pb.WatchUsageResponse]:
        """Return the message, without instances that were not asked for."""
        assert isinstance(message, pb.WatchUsageResponse)
        if self._wanted is not None:
            kept = [usage for usage in message.usages if usage.instance_id in self._wanted]
            message = pb.WatchUsageResponse(usages=kept, time=message.time)
        return (message,)

    def disconnected(self) -> None:
        """Do nothing, as each message is complete."""


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
        self._ids, self._selectors, self._wanted = _split_ids(instance_ids)
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
            selectors=self._selectors,
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


def _split_ids(
    instance_ids: Iterable[str],
) -> tuple[tuple[str, ...], tuple[str, ...], frozenset[str] | None]:
    """Return the ids and the selectors for the request, and the ids to filter for.

    A request has at most MAX_IDS ids. With more, the request names none, and the client filters the answer.
    """
    ids, selectors = split(instance_ids)
    if len(ids) <= MAX_IDS:
        return ids, selectors, None
    wanted = frozenset(ids)
    check_combination(wanted, selectors)
    return (), (), wanted


def _keep_wanted(message: pb.WatchStatusResponse, wanted: frozenset[str]) -> None:
    for part in (message.snapshot, message.delta):  # reading the absent part leaves the message unchanged
        kept = [i for i in part.instances if i.instance_id in wanted]
        if len(kept) < len(part.instances):
            del part.instances[:]
            part.instances.extend(kept)
    # The fold ignores removed ids that the reader does not know.


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
