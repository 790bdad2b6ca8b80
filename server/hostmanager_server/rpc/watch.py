"""WatchStatus: a snapshot, then every change, for as many readers as there are, however slow."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller, check_token
from hostmanager_server.rpc.context import RpcContext, heartbeat_interval
from hostmanager_server.rpc.hub import Watcher
from hostmanager_server.rpc.pieces import in_pieces
from hostmanager_server.rpc.snapshots import Piece, Reason, SnapshotPieces
from hostmanager_server.state.store import Snapshot, StoreChanges


class WatchRpcs:
    """A stream keeps a cursor (the revision it has sent), asks the store what came after it, and sends that.

    What all unfiltered readers at one cursor get is made and serialized once.
    """

    def __init__(self, context: RpcContext) -> None:
        self._context = context
        self._pieces = SnapshotPieces(context)
        self._shared_revision = 0
        self._shared: dict[int, tuple[bytes, ...]] = {}  # by cursor, up to _shared_revision

    async def watch_status(self, request: pb.WatchStatusRequest, caller: Caller) -> AsyncIterator[bytes]:
        context = self._context
        silence = heartbeat_interval(request.heartbeat_interval, request.HasField("heartbeat_interval"))
        cursor, reason = self._start(request.resume_token)
        known = context.store.snapshot().instances
        filtered = caller.filter(request.instance_ids, known)
        del request, known  # they are not to live as long as the stream
        async with filtered as wanted:
            with context.hub.watcher(silence) as watcher:
                async for message in self._follow(caller, cursor, reason, wanted, watcher):
                    yield message

    async def _follow(
        self,
        caller: Caller,
        cursor: int | None,
        reason: Reason.ValueType,
        wanted: frozenset[str],
        watcher: Watcher,
    ) -> AsyncIterator[bytes]:
        context = self._context
        while True:
            if cursor is None:
                snapshot, after = context.store.snapshot(), None
                while cursor is None:
                    piece = await self._piece(caller, snapshot, wanted, reason, after)
                    yield piece.message
                    after = piece.through
                    if after is None:
                        cursor = snapshot.revision
                del snapshot, piece
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
            revision = changes.revision
            messages = await self._delta(caller, cursor, changes, wanted)
            del changes
            for message in messages:
                yield message
                watcher.sent()
            cursor = revision

    async def _piece(
        self,
        caller: Caller,
        snapshot: Snapshot,
        wanted: frozenset[str],
        reason: Reason.ValueType,
        after: str | None,
    ) -> Piece:
        """The next piece of a snapshot; one that has to be made waits for its turn."""
        piece = None if wanted else self._pieces.kept(snapshot, reason, after)
        if piece is not None:
            return piece
        async with caller.quotas.messages:
            piece = None if wanted else self._pieces.kept(snapshot, reason, after)
            return piece or self._pieces.make(snapshot, wanted, reason, after)

    def _start(self, resume_token: str) -> tuple[int | None, Reason.ValueType]:
        """The cursor to go on from, or None and the reason for a snapshot."""
        check_token(resume_token, "resume_token")
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

    async def _delta(
        self, caller: Caller, cursor: int, changes: StoreChanges, wanted: frozenset[str]
    ) -> tuple[bytes, ...]:
        """The messages that bring a reader from its cursor to the changes' revision; none: nothing for it."""
        if wanted:
            async with caller.quotas.messages:
                return self._make_delta(cursor, changes, wanted)
        if changes.revision != self._shared_revision:
            self._shared_revision = changes.revision
            self._shared.clear()
        made = self._shared.get(cursor)
        if made is None:
            made = self._shared[cursor] = self._make_delta(cursor, changes, wanted)
        return made

    def _make_delta(self, cursor: int, changes: StoreChanges, wanted: frozenset[str]) -> tuple[bytes, ...]:
        context = self._context
        context.convert.forget(changes.removed)
        instances = [t for t in changes.instances if not wanted or t.instance.instance_id in wanted]
        removed = [i for i in changes.removed if not wanted or i in wanted]
        if not instances and not removed and changes.manager is None:
            return ()
        now = context.now()
        lists = list(in_pieces((context.convert(tracked, now) for tracked in instances), len(instances)))
        messages = []
        for piece in lists or [[]]:
            last = not lists or piece is lists[-1]
            # Up to its last piece a delta brings nobody further than where they were: whoever leaves off in
            # its middle gets all of it again.
            message = self._message(changes.revision if last else cursor)
            message.delta.instances.extend(piece)
            if last:
                message.delta.removed_instance_ids.extend(removed)
                if changes.manager is not None:
                    message.delta.manager.CopyFrom(convert.manager_status(changes.manager, context.daemon))
            messages.append(message.SerializeToString())
        return tuple(messages)
