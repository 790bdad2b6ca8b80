"""Conversion of the changes of a site config to protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.config_changes import NO_CHANGES, ChangeKind, ConfigChanges, InstanceChange
from hostmanager_server.rpc.convert import TARGET, timestamp

_KIND = {
    ChangeKind.ADDED: pb.InstanceChange.KIND_ADDED,
    ChangeKind.REMOVED: pb.InstanceChange.KIND_REMOVED,
    ChangeKind.CHANGED: pb.InstanceChange.KIND_CHANGED,
    ChangeKind.REPLACED: pb.InstanceChange.KIND_REPLACED,
}


class ChangesConverter:
    """A cache of the messages of the last changes, which many requests may share. For one thread."""

    def __init__(self) -> None:
        self._last: ConfigChanges = NO_CHANGES
        self._messages: Sequence[pb.InstanceChange] = ()

    def __call__(self, changes: ConfigChanges) -> Sequence[pb.InstanceChange]:
        """Return the messages for the listed changes; the caller must not change the messages."""
        if changes is not self._last:
            self._last, self._messages = changes, [_message(each) for each in changes.listed]
        return self._messages


def _message(change: InstanceChange) -> pb.InstanceChange:
    return pb.InstanceChange(
        instance_id=change.instance_id,
        kind=_KIND[change.kind],
        agent_class=change.agent_class,
        target_state=TARGET[change.target],
        stops=change.stops,
        start_time=timestamp(change.started) if change.started is not None else None,
        restart_required=change.restart_required,
        keys=[pb.KeyChange(key=each.key, before=each.before, after=each.after) for each in change.keys],
        more_keys=change.more_keys,
        message=change.message,
    )
