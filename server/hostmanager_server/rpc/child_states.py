"""The child_states of GetStatus, serialized, and renewed only where something changed."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance
from hostmanager_server.core.stability import recovers
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.convert_instance import child_state
from hostmanager_server.rpc.wire import embedded
from hostmanager_server.state.store import Store, StoreChanges

_Response = pb.GetStatusResponse


class ChildStates:
    """The serialized fields `manager` and `child_states` of GetStatusResponse. For one thread.

    An unchanged state costs nothing, a changed instance is converted alone. Only the stability of instances
    with recent failures changes without a revision.
    """

    def __init__(self, store: Store, daemon: convert.DaemonInfo) -> None:
        """Begin empty; the first call converts all instances."""
        self._store = store
        self._daemon = daemon
        self._ids: list[str] = []  # sorted
        self._ids_changed = False
        self._parts: dict[str, bytes] = {}
        self._recovering: dict[str, Instance] = {}  # with recent failures
        self._manager = b""
        self._joined: bytes | None = b""
        self.revision = 0

    def at(self, now: Instant) -> bytes:
        """Return the fields at the store's newest revision, which `revision` holds afterwards."""
        if self._store.revision != self.revision:
            self._catch_up(now)
        if self._recovering:
            self._convert(list(self._recovering.values()), now)
        if self._joined is None:
            self._joined = self._manager + b"".join(map(self._parts.__getitem__, self._ids))
        return self._joined

    def _catch_up(self, now: Instant) -> None:
        changes = self._store.changes_since(self.revision)
        if changes is None:  # too many instances went since
            self._parts.clear()
            self._ids_changed = True
            self._recovering.clear()
            snapshot = self._store.snapshot()
            changes = StoreChanges(
                snapshot.revision, tuple(snapshot.instances.values()), (), snapshot.manager
            )
        self._convert([tracked.instance for tracked in changes.instances], now)
        for instance_id in changes.removed:
            self._ids_changed = True
            self._parts.pop(instance_id, None)
            self._recovering.pop(instance_id, None)
        if self._ids_changed:
            self._ids, self._ids_changed = sorted(self._parts), False
        if changes.manager is not None:
            status = convert.manager_status(changes.manager, self._daemon)
            self._manager = embedded(_Response.MANAGER_FIELD_NUMBER, status.SerializeToString())
        self._joined = None
        self.revision = changes.revision

    def _convert(self, instances: Iterable[Instance], now: Instant) -> None:
        for instance in instances:
            if instance.instance_id not in self._parts:
                self._ids_changed = True
            part = child_state(instance, now).SerializeToString()
            self._parts[instance.instance_id] = embedded(_Response.CHILD_STATES_FIELD_NUMBER, part)
            if recovers(instance.standing.fail_times, now):
                self._recovering[instance.instance_id] = instance
            else:
                self._recovering.pop(instance.instance_id, None)
            self._joined = None
