"""The messages of WatchStatus: snapshot chunks, deltas and heartbeats."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.events import Instant
from hostmanager_server.rpc.convert import timestamp

Reason = pb.StatusSnapshot.Reason


def snapshot_message(
    revision: int,
    now: Instant,
    resume_token: str,
    reason: Reason.ValueType,
    manager: pb.ManagerStatus | None,
    instances: Sequence[pb.ManagedInstance],
) -> bytes:
    """Return one serialized chunk of a snapshot.

    The first chunk has the manager's status. The last chunk has a resume token: a reader that stops earlier
    lacks the other instances, and cannot resume.
    """
    message = _message(revision, now, resume_token)
    chunk = message.snapshot
    chunk.reason = reason
    chunk.first, chunk.last = manager is not None, bool(resume_token)
    if manager is not None:
        chunk.manager.CopyFrom(manager)
    chunk.instances.extend(instances)
    return message.SerializeToString()


def delta_message(
    revision: int,
    now: Instant,
    resume_token: str,
    instances: Sequence[pb.ManagedInstance],
    removed: Sequence[str] = (),
    manager: pb.ManagerStatus | None = None,
) -> bytes:
    """Return a serialized delta: changed instances, the ids of removed ones, the manager if changed."""
    message = _message(revision, now, resume_token)
    message.delta.instances.extend(instances)
    message.delta.removed_instance_ids.extend(removed)
    if manager is not None:
        message.delta.manager.CopyFrom(manager)
    return message.SerializeToString()


def heartbeat_message(revision: int, now: Instant, resume_token: str) -> bytes:
    """Return a serialized heartbeat."""
    message = _message(revision, now, resume_token)
    message.heartbeat.SetInParent()
    return message.SerializeToString()


def _message(revision: int, now: Instant, resume_token: str) -> pb.WatchStatusResponse:
    return pb.WatchStatusResponse(revision=revision, time=timestamp(now), resume_token=resume_token)
