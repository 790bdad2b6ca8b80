"""WatchStatus: a snapshot, then every change, for as many readers as there are, however slow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.context import Context, heartbeat_interval
from hostmanager_server.store import Changes

# Instances in one piece of a snapshot: some 250 KiB, well below the 4 MiB that clients accept by default.
PIECE = 500

_Reason = pb.StatusSnapshot.Reason


class WatchRpcs:
    """A stream keeps a cursor (the revision it has sent), asks the store what came after it, and sends that.

    What all unfiltered readers at one cursor get is made and serialized once.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._shared_revision = 0
        self._shared: dict[int, bytes] = {}  # by cursor, up to _shared_revision

    async def watch_status(self, request: pb.WatchStatusRequest, peer: str) -> AsyncIterator[bytes]:
        context = self._context
        silence = heartbeat_interval(request.heartbeat_interval, request.HasField("heartbeat_interval"))
        wanted = frozenset(request.instance_ids)
        cursor, reason = self._start(request.resume_token)
        with context.hub.watcher(peer, silence) as watcher:
            while True:
                if cursor is None:
                    for piece in self._snapshot(wanted, reason):
                        yield piece.SerializeToString()
                        cursor = piece.revision
                    watcher.sent()
                    reason = pb.StatusSnapshot.REASON_SLOW_CONSUMER
                    continue
                if not await watcher.wait(cursor):
                    yield self._heartbeat(cursor)
                    continue
                changes = context.store.changes_since(cursor)
                if changes is None:
                    cursor = None
                    continue
                message = self._delta(cursor, changes, wanted)
                cursor = changes.revision
                if message is not None:
                    yield message
                    watcher.sent()

    def _start(self, resume_token: str) -> tuple[int | None, _Reason.ValueType]:
        """The cursor to go on from, or None and the reason for a snapshot."""
        if not resume_token:
            return None, pb.StatusSnapshot.REASON_INITIAL
        epoch, revision = convert.read_token(resume_token)
        if epoch != self._context.daemon.epoch:
            return None, pb.StatusSnapshot.REASON_EPOCH_CHANGED
        if self._context.store.changes_since(revision) is None:
            return None, pb.StatusSnapshot.REASON_HISTORY_COMPACTED
        return revision, pb.StatusSnapshot.REASON_UNSPECIFIED

    def _message(self, revision: int) -> pb.WatchStatusResponse:
        return pb.WatchStatusResponse(
            revision=revision,
            time=convert.timestamp(self._context.now()),
            resume_token=self._context.token(revision),
        )

    def _heartbeat(self, cursor: int) -> bytes:
        message = self._message(cursor)
        message.heartbeat.SetInParent()
        return message.SerializeToString()

    def _snapshot(
        self, wanted: frozenset[str], reason: _Reason.ValueType
    ) -> Iterator[pb.WatchStatusResponse]:
        """The pieces. All are of one revision, made as they are sent, so that a stalled reader holds one."""
        context = self._context
        snapshot = context.store.snapshot()
        ids = sorted(i for i in snapshot.instances if not wanted or i in wanted)
        starts = range(0, max(1, len(ids)), PIECE)
        for start in starts:
            message = self._message(snapshot.revision)
            piece = message.snapshot
            piece.reason = reason
            piece.first = start == starts[0]
            piece.last = start == starts[-1]
            if not piece.last:
                message.resume_token = ""  # whoever leaves off here lacks the rest: nothing to resume from
            if piece.first:
                piece.manager.CopyFrom(convert.manager_status(snapshot.manager, context.daemon))
            now = context.now()
            piece.instances.extend(
                context.convert(snapshot.instances[i], now) for i in ids[start : start + PIECE]
            )
            yield message

    def _delta(self, cursor: int, changes: Changes, wanted: frozenset[str]) -> bytes | None:
        """The message that brings a reader from its cursor to the changes' revision; None: nothing for it."""
        if wanted:
            return self._make_delta(changes, wanted)
        if changes.revision != self._shared_revision:
            self._shared_revision = changes.revision
            self._shared.clear()
        made = self._shared.get(cursor)
        if made is None:
            made = self._shared[cursor] = self._make_delta(changes, wanted) or b""
        return made or None

    def _make_delta(self, changes: Changes, wanted: frozenset[str]) -> bytes | None:
        context = self._context
        context.convert.forget(changes.removed)
        instances = [t for t in changes.instances if not wanted or t.instance.instance_id in wanted]
        removed = [i for i in changes.removed if not wanted or i in wanted]
        if not instances and not removed and changes.manager is None:
            return None
        message = self._message(changes.revision)
        delta = message.delta
        now = context.now()
        delta.instances.extend(context.convert(tracked, now) for tracked in instances)
        delta.removed_instance_ids.extend(removed)
        if changes.manager is not None:
            delta.manager.CopyFrom(convert.manager_status(changes.manager, context.daemon))
        return message.SerializeToString()
