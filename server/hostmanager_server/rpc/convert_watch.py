"""The messages of WatchStatus: snapshot chunks, deltas and heartbeats."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.events import Instant
from hostmanager_server.rpc.convert import timestamp
from hostmanager_server.rpc.wire import embedded, repeated

Reason = pb.StatusSnapshot.Reason


def snapshot_message(
    revision: int,
    now: Instant,
    resume_token: str,
    reason: Reason.ValueType,
    manager: pb.ManagerStatus | None,
    instances: Sequence[bytes],
) -> bytes:
    """Return one serialized chunk of a snapshot with these serialized instances.

    The first chunk has the manager's status. The last chunk has a resume token: a reader that stops earlier
    lacks the other instances, and cannot resume.
    """
    chunk = pb.StatusSnapshot(
        reason=reason, manager=manager, first=manager is not None, last=bool(resume_token)
    )
    body = chunk.SerializeToString() + repeated(pb.StatusSnapshot.INSTANCES_FIELD_NUMBER, instances)
    header = _message(revision, now, resume_token).SerializeToString()
    return header + embedded(pb.WatchStatusResponse.SNAPSHOT_FIELD_NUMBER, body)


def delta_message(
    revision: int,
    now: Instant,
    resume_token: str,
    instances: Sequence[bytes],
    removed: Sequence[str] = (),
    manager: pb.ManagerStatus | None = None,
) -> bytes:
    """Return a serialized delta: changed instances (serialized), ids of removed ones, a changed manager."""
    delta = pb.StatusDelta(removed_instance_ids=removed, manager=manager)
    body = delta.SerializeToString() + repeated(pb.StatusDelta.INSTANCES_FIELD_NUMBER, instances)
    header = _message(revision, now, resume_token).SerializeToString()
    return header + embedded(pb.WatchStatusResponse.DELTA_FIELD_NUMBER, body)


def heartbeat_message(revision: int, now: Instant, resume_token: str) -> bytes:
    """Return a serialized heartbeat."""
    message = _message(revision, now, resume_token)
    message.heartbeat.SetInParent()
    return message.SerializeToString()


def _message(revision: int, now: Instant, resume_token: str) -> pb.WatchStatusResponse:
    return pb.WatchStatusResponse(revision=revision, time=timestamp(now), resume_token=resume_token)
