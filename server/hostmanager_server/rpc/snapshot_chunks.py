"""A cache of serialized snapshot chunks, shared by all readers without a filter."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from hostmanager.values import dataclass

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.chunks import in_chunks
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert_watch import Reason, snapshot_message
from hostmanager_server.rpc.selecting import InstanceFilter
from hostmanager_server.state.store import Snapshot


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A serialized message with some instances of a snapshot."""

    message: bytes
    through: str | None  # the id of the last instance; None: the snapshot is complete


class SnapshotChunks:
    """Builds the chunks of a snapshot one by one, so that a stalled reader holds only one of them.

    Chunks for readers without a filter are cached until the next revision: one snapshot at most.
    """

    def __init__(self, context: RpcContext) -> None:
        """Create an empty cache."""
        self._context = context
        self._revision = 0
        self._cache: dict[tuple[Reason.ValueType, str | None], SnapshotChunk] = {}

    def cached(self, snapshot: Snapshot, reason: Reason.ValueType, after: str | None) -> SnapshotChunk | None:
        """Return the cached chunk that follows the instance `after` (None: the first), if there is one."""
        return self._cache.get((reason, after)) if snapshot.revision == self._revision else None

    def build(
        self, snapshot: Snapshot, wanted: InstanceFilter, reason: Reason.ValueType, after: str | None
    ) -> SnapshotChunk:
        """Return the chunk of the wanted instances that follows `after`."""
        self._context.convert.forget_others(snapshot.instances)
        if wanted:
            return self._build(snapshot, wanted.passing(snapshot), reason, after)
        if snapshot.revision < self._revision:  # a slow reader, still at an older snapshot
            return self._build(snapshot, snapshot.ids, reason, after)
        if snapshot.revision != self._revision:
            self._revision = snapshot.revision
            self._cache.clear()
        chunk = self._build(snapshot, snapshot.ids, reason, after)
        self._cache[reason, after] = chunk
        return chunk

    def _build(
        self, snapshot: Snapshot, ids: Sequence[str], reason: Reason.ValueType, after: str | None
    ) -> SnapshotChunk:
        context, now = self._context, self._context.now()
        start = 0 if after is None else bisect_right(ids, after)
        remaining = (ids[index] for index in range(start, len(ids)))
        instances = next(in_chunks(context.convert(snapshot.instances[i], now) for i in remaining), [])
        is_last = start + len(instances) == len(ids)
        token = context.token(snapshot.revision) if is_last else ""
        manager = convert.manager_status(snapshot.manager, context.daemon) if after is None else None
        message = snapshot_message(snapshot.revision, now, token, reason, manager, instances)
        return SnapshotChunk(message, None if is_last else ids[start + len(instances) - 1])
