"""The pieces of a snapshot, each made once for all readers that need the same one."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.pieces import in_pieces
from hostmanager_server.state.store import Snapshot

Reason = pb.StatusSnapshot.Reason


@dataclass(frozen=True, slots=True)
class Piece:
    """A message that is serialized already. `through` is its last instance; None: the snapshot is whole."""

    message: bytes
    through: str | None


class SnapshotPieces:
    """Makes pieces one by one, as they are sent, so that a reader that stalls holds one of them.

    Pieces for readers without a filter are kept until there is a newer revision: one snapshot at most.
    """

    def __init__(self, context: RpcContext) -> None:
        self._context = context
        self._revision = 0
        self._ids: list[str] = []  # of `_revision`, in order
        self._shared: dict[tuple[Reason.ValueType, str | None], Piece] = {}

    def kept(self, snapshot: Snapshot, reason: Reason.ValueType, after: str | None) -> Piece | None:
        """The piece that follows the instance `after` (None: the first), if it is made already."""
        return self._shared.get((reason, after)) if snapshot.revision == self._revision else None

    def make(
        self, snapshot: Snapshot, wanted: frozenset[str], reason: Reason.ValueType, after: str | None
    ) -> Piece:
        """The piece of the wanted instances (of all when the set is empty) that follows `after`."""
        if wanted:
            return self._make(snapshot, sorted(i for i in wanted if i in snapshot.instances), reason, after)
        if snapshot.revision < self._revision:  # a reader that has fallen behind
            return self._make(snapshot, sorted(snapshot.instances), reason, after)
        if snapshot.revision != self._revision:
            self._revision, self._ids = snapshot.revision, sorted(snapshot.instances)
            self._shared.clear()
        piece = self._make(snapshot, self._ids, reason, after)
        self._shared[reason, after] = piece
        return piece

    def _make(self, snapshot: Snapshot, ids: list[str], reason: Reason.ValueType, after: str | None) -> Piece:
        context, now = self._context, self._context.now()
        start = 0 if after is None else bisect_right(ids, after)
        left = (ids[n] for n in range(start, len(ids)))
        instances = next(in_pieces(context.convert(snapshot.instances[i], now) for i in left), [])
        last = start + len(instances) == len(ids)
        message = pb.WatchStatusResponse(revision=snapshot.revision, time=convert.timestamp(now))
        if last:  # a reader that leaves off earlier lacks the rest: nothing to resume from
            message.resume_token = context.token(snapshot.revision)
        piece = message.snapshot
        piece.reason = reason
        piece.first, piece.last = after is None, last
        if piece.first:
            piece.manager.CopyFrom(convert.manager_status(snapshot.manager, context.daemon))
        piece.instances.extend(instances)
        return Piece(message.SerializeToString(), None if last else ids[start + len(instances) - 1])
