"""ListEvents and WatchEvents: the event log, in pages and as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.errors import FieldViolation, invalid
from hostmanager_server.rpc.tokens import read_token
from hostmanager_server.rpc.validation import check_ids, check_token, heartbeat_interval, page_size
from hostmanager_server.state.store import EVENTS_KEPT, Events, PublishedEntry

DEFAULT_PAGE = 100
BATCH = 500  # events in one message of a stream: some 100 KiB
UNPACED_EVENTS = 20  # the most events that are converted without waiting for the pacer


class EventRpcs:
    """The RPCs that read the event log."""

    def __init__(self, context: RpcContext) -> None:
        """Serve from the context's store."""
        self._context = context

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """Return a page of events, oldest first."""
        context = self._context
        size = page_size(request.page_size, DEFAULT_PAGE)
        if request.newest < 0 or request.newest > EVENTS_KEPT:
            text = f"newest must be 0 (all that are kept) to {EVENTS_KEPT}, not {request.newest}"
            raise invalid(text, FieldViolation("newest", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        check_token(request.page_token, "page_token")
        wanted = frozenset(request.instance_ids)
        kept = context.store.events_since(self._page_start(request.page_token))
        selected = [entry for entry in kept.events if _concerns(entry, wanted)]
        if request.newest and not request.page_token:
            selected = selected[-request.newest :]
        page, rest = selected[:size], selected[size:]
        last = page[-1].sequence if rest else kept.last
        return pb.ListEventsResponse(
            events=[convert.event(entry) for entry in page],
            next_page_token=context.token(last) if rest else "",
            resume_token=context.token(last),
        )

    def _page_start(self, page_token: str) -> int:
        """Return the sequence number that the page follows."""
        if not page_token:
            return 0
        epoch, after = read_token(page_token, "page_token")
        if epoch != self._context.daemon.epoch:
            text = "page_token is from before the daemon was last started; start afresh without it"
            raise invalid(text, FieldViolation("page_token", text))
        return after

    async def watch_events(
        self, request: pb.WatchEventsRequest, caller: Caller
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Yield events until the client leaves or the daemon shuts down."""
        context = self._context
        silence = heartbeat_interval(
            request.heartbeat_interval, is_set=request.HasField("heartbeat_interval")
        )
        check_token(request.resume_token, "resume_token")
        known = context.store.snapshot().instances
        filtered, token = caller.filter(request.instance_ids, known), request.resume_token
        del request, known  # must not live as long as the stream
        async with filtered as wanted:
            async for message in self._follow(token, wanted, silence, caller):
                yield message

    async def _follow(
        self, resume_token: str, wanted: frozenset[str], silence: float, caller: Caller
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        context = self._context
        cursor = context.store.last_sequence
        greeted = False  # the first message comes at once: the client learns where to resume
        if resume_token:
            epoch, cursor = read_token(resume_token)
            if epoch != context.daemon.epoch or cursor > context.store.last_sequence:
                text = "the daemon has been started again since; earlier events are lost"
                yield self._message([], 0, convert.event_gap(text))
                cursor, greeted = 0, True
        with context.hub.watcher(silence) as watcher:
            while True:
                revision = context.hub.revision
                batch = context.store.events_since(cursor, BATCH)
                message = await self._batch_message(batch, wanted, caller)
                if message is None and not greeted:
                    message = self._message([], batch.last)
                greeted = True
                if message is not None:
                    yield message
                    watcher.sent()
                if batch.last != cursor:
                    cursor = batch.last
                    continue
                if not await watcher.wait(revision):
                    yield self._message([], cursor)

    async def _batch_message(
        self, batch: Events, wanted: frozenset[str], caller: Caller
    ) -> pb.WatchEventsResponse | None:
        """Return the message for a batch, None if nothing in it concerns the reader."""
        if len(batch.events) <= UNPACED_EVENTS:
            return self._convert(batch, wanted)
        async with caller.admission.message_pacer:
            return self._convert(batch, wanted)

    def _convert(self, batch: Events, wanted: frozenset[str]) -> pb.WatchEventsResponse | None:
        entries = [entry for entry in batch.events if _concerns(entry, wanted)]
        gap = None
        if batch.missed:
            gap = convert.event_gap(f"{batch.missed} events are no longer kept", batch.missed)
        if not entries and gap is None:
            return None
        return self._message(entries, batch.last, gap)

    def _message(
        self, entries: list[PublishedEntry], cursor: int, gap: pb.EventGap | None = None
    ) -> pb.WatchEventsResponse:
        return convert.events_message(entries, self._context.token(cursor), self._context.now(), gap)


def _concerns(entry: PublishedEntry, wanted: frozenset[str]) -> bool:
    return not wanted or entry.entry.instance_id in wanted
