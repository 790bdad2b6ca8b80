"""WatchStatus: a snapshot, then every change, for any number of readers at any speed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.chunks import in_chunks
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert_watch import Reason, delta_message, heartbeat_message
from hostmanager_server.rpc.hub import Watcher
from hostmanager_server.rpc.selecting import InstanceFilter
from hostmanager_server.rpc.snapshot_chunks import SnapshotChunk, SnapshotChunks
from hostmanager_server.rpc.tokens import read_token
from hostmanager_server.rpc.validation import check_token, heartbeat_interval
from hostmanager_server.state.store import Snapshot, StoreChanges


class WatchRpcs:
    """The WatchStatus streams.

    A stream keeps a cursor, the last revision it sent, and asks the store for the changes since. Messages for
    all readers without a filter at one cursor are built and serialized once.
    """

    def __init__(self, context: RpcContext) -> None:
        """Serve from the context's store."""
        self._context = context
        self._chunks = SnapshotChunks(context)
        self._shared_revision = 0
        self._shared: dict[int, tuple[bytes, ...]] = {}  # deltas by cursor, up to _shared_revision

    async def watch_status(self, request: pb.WatchStatusRequest, caller: Caller) -> AsyncIterator[bytes]:
        """Yield serialized messages until the client leaves or the daemon shuts down."""
        context = self._context
        silence = heartbeat_interval(
            request.heartbeat_interval, is_set=request.HasField("heartbeat_interval")
        )
        cursor, reason = self._start(request.resume_token)
        known = context.store.snapshot().instances
        filtered = caller.filter(
            request.instance_ids, known, list(request.selectors), failing=request.failing
        )
        del request, known  # must not live as long as the stream
        async with filtered as wanted:
            with context.hub.watcher(silence) as watcher:
                async for message in self._follow(caller, cursor, reason, wanted, watcher):
                    yield message

    async def _follow(
        self,
        caller: Caller,
        cursor: int | None,
        reason: Reason.ValueType,
        wanted: InstanceFilter,
        watcher: Watcher,
    ) -> AsyncIterator[bytes]:
        """Yield deltas after the cursor; a cursor of None, or one too old, starts with a snapshot."""
        context = self._context
        while True:
            if cursor is None:
                snapshot, after = context.store.snapshot(), None
                while cursor is None:
                    chunk = await self._chunk(caller, snapshot, wanted, reason, after)
                    yield chunk.message
                    after = chunk.through
                    if after is None:
                        cursor = snapshot.revision
                del snapshot, chunk
                watcher.sent()
                reason = pb.StatusSnapshot.REASON_SLOW_CONSUMER
                continue
            if not await watcher.wait(cursor):
                yield heartbeat_message(cursor, context.now(), context.token(cursor))
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

    async def _chunk(
        self,
        caller: Caller,
        snapshot: Snapshot,
        wanted: InstanceFilter,
        reason: Reason.ValueType,
        after: str | None,
    ) -> SnapshotChunk:
        """Return the next chunk of a snapshot; building a chunk waits for the pacer."""
        chunk = None if wanted else self._chunks.cached(snapshot, reason, after)
        if chunk is not None:
            return chunk
        async with caller.admission.message_pacer:
            chunk = None if wanted else self._chunks.cached(snapshot, reason, after)
            return chunk or self._chunks.build(snapshot, wanted, reason, after)

    def _start(self, resume_token: str) -> tuple[int | None, Reason.ValueType]:
        """Return the cursor to resume from, or None and the reason for a snapshot."""
        check_token(resume_token, "resume_token")
        if not resume_token:
            return None, pb.StatusSnapshot.REASON_INITIAL
        epoch, revision = read_token(resume_token)
        if epoch != self._context.daemon.epoch:
            return None, pb.StatusSnapshot.REASON_EPOCH_CHANGED
        if self._context.store.changes_since(revision) is None:
            return None, pb.StatusSnapshot.REASON_HISTORY_COMPACTED
        return revision, pb.StatusSnapshot.REASON_UNSPECIFIED

    async def _delta(
        self, caller: Caller, cursor: int, changes: StoreChanges, wanted: InstanceFilter
    ) -> tuple[bytes, ...]:
        """Return the messages that bring a reader from its cursor to the changes' revision.

        The tuple is empty when no change concerns the reader.
        """
        if wanted:
            async with caller.admission.message_pacer:
                return self._build_delta(cursor, changes, wanted)
        if changes.revision != self._shared_revision:
            self._shared_revision = changes.revision
            self._shared.clear()
        messages = self._shared.get(cursor)
        if messages is None:
            messages = self._shared[cursor] = self._build_delta(cursor, changes, wanted)
        return messages

    def _build_delta(self, cursor: int, changes: StoreChanges, wanted: InstanceFilter) -> tuple[bytes, ...]:
        context = self._context
        instances = [t for t in changes.instances if wanted.passes(t.instance)]
        removed = [i for i in changes.removed if wanted.may_have(i)]
        if wanted.changes:  # the reader may know instances that passed before
            others = (t.instance for t in changes.instances if not wanted.passes(t.instance))
            removed += [instance.instance_id for instance in others]
        if not instances and not removed and changes.manager is None:
            return ()
        now = context.now()
        chunks = list(in_chunks((context.convert(tracked, now) for tracked in instances), len(instances)))
        chunks = chunks or [[]]
        # All chunks but the last keep the old cursor: a reader that stops in between gets the delta again.
        token = context.token(cursor)
        messages = [delta_message(cursor, now, token, chunk) for chunk in chunks[:-1]]
        manager = None
        if changes.manager is not None:
            manager = convert.manager_status(changes.manager, context.daemon)
        token = context.token(changes.revision)
        messages.append(delta_message(changes.revision, now, token, chunks[-1], removed, manager))
        return tuple(messages)
