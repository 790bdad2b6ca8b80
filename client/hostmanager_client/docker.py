"""Streams of image pulls and of orphan removals.

These streams do not reconnect: a pull stops when its last client has left, and a removal happens once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.errors import InvalidRequest, ServerBug, quoted
from hostmanager_client.seconds import in_seconds
from hostmanager_client.streams import DEFAULT_HEARTBEAT, HEARTBEATS_MISSED, Stream

HOUR = 3600.0


class PullStream(Stream[pb.DockerPullResponse]):
    """The progress of an image pull, and its result."""

    method = "DockerPull"
    what = "pull images"
    reconnects = False
    changes = True
    silence = DEFAULT_HEARTBEAT * HEARTBEATS_MISSED

    def __init__(
        self,
        instance_ids: Iterable[str],
        *,
        new_only: bool,
        detach: bool,
        progress_timeout: float | None,
        reason: str = "",
    ) -> None:
        self._request = pb.DockerPullRequest(
            instance_ids=_ids(instance_ids, "instance"),
            new_only=new_only,
            detach=detach,
            progress_timeout=_duration(progress_timeout, "progress_timeout", 1.0),
            reason=reason,
        )
        self._complete = False

    def request(self) -> pb.DockerPullRequest:
        """Return the request."""
        return self._request

    def receive(self, message: Message) -> Sequence[pb.DockerPullResponse]:
        """Return the message itself."""
        assert isinstance(message, pb.DockerPullResponse)
        self._complete = message.HasField("result")
        return (message,)

    def disconnected(self) -> None:
        """Do nothing, as the stream does not reconnect."""

    def ended(self) -> None:
        """Raise ServerBug unless the result has arrived."""
        if not self._complete:
            raise ServerBug("cannot report the outcome of the pull: the stream ended without a result")


class OrphanStream(Stream[pb.RemoveOrphansResponse]):
    """The removals of orphaned containers, and the result."""

    method = "RemoveOrphans"
    what = "remove orphans"
    reconnects = False
    changes = True

    def __init__(self, container_ids: Iterable[str], stop_timeout: float | None, reason: str = "") -> None:
        self._request = pb.RemoveOrphansRequest(
            container_ids=_ids(container_ids, "container"),
            stop_timeout=_duration(stop_timeout, "stop_timeout", 0.0),
            reason=reason,
        )
        self._complete = False

    def request(self) -> pb.RemoveOrphansRequest:
        """Return the request."""
        return self._request

    def receive(self, message: Message) -> Sequence[pb.RemoveOrphansResponse]:
        """Return the message itself."""
        assert isinstance(message, pb.RemoveOrphansResponse)
        self._complete = message.HasField("result")
        return (message,)

    def disconnected(self) -> None:
        """Do nothing, as the stream does not reconnect."""

    def ended(self) -> None:
        """Raise ServerBug unless the result has arrived."""
        if not self._complete:
            raise ServerBug("cannot report which orphans are removed: the stream ended without a result")


def _ids(ids: Iterable[str], of_what: str) -> tuple[str, ...]:
    if isinstance(ids, str):  # otherwise each letter would be an id
        raise InvalidRequest(f"cannot use {quoted(ids)} as a list of {of_what} ids: write [{quoted(ids)}]")
    return tuple(ids)


def _duration(seconds: float | None, name: str, least: float) -> Duration | None:
    if seconds is None:
        return None
    if not least <= seconds <= HOUR:
        raise InvalidRequest(
            f"cannot use {in_seconds(seconds)} as {name}: "
            f"the range is {in_seconds(least)} to {in_seconds(HOUR)}"
        )
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
