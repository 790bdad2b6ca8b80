"""ListEvents, WatchEvents: what happened, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller, check_ids, check_token
from hostmanager_server.rpc.context import RpcContext, heartbeat_interval, page_size
from hostmanager_server.rpc.errors import FieldViolation, invalid
from hostmanager_server.state.store import EVENTS_KEPT, Events, PublishedEntry

DEFAULT_PAGE = 100
# Events in one message of a stream: some 100 KiB.
BATCH = 500
# So many are converted at once; a batch of more waits for its turn.
FEW = 20


class EventRpcs:
    def __init__(self, context: RpcContext) -> None:
        self._context = context

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        context = self._context
        size = page_size(request.page_size, DEFAULT_PAGE)
        if request.newest < 0 or request.newest > EVENTS_KEPT:
            text = f"newest must be 0 (all that are kept) to {EVENTS_KEPT}, not {request.newest}"
            raise invalid(text, FieldViolation("newest", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        check_token(request.page_token, "page_token")
        wanted = frozenset(request.instance_ids)
        after = 0
        if request.page_token:
            epoch, after = convert.read_token(request.page_token, "page_token")
            if epoch != context.daemon.epoch:
                text = "page_token is of an earlier life of the daemon; start afresh without it"
                raise invalid(text, FieldViolation("page_token", text))
        kept = context.store.events_since(after)
        chosen = [e for e in kept.events if _concerns(e, wanted)]
        if request.newest and not request.page_token:
            chosen = chosen[-request.newest :]
        page, rest = chosen[:size], chosen[size:]
        last = page[-1].sequence if rest else kept.last
        return pb.ListEventsResponse(
            events=[convert.event(e) for e in page],
            next_page_token=context.token(last) if rest else "",
            resume_token=context.token(last),
        )

    async def watch_events(
        self, request: pb.WatchEventsRequest, caller: Caller
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        context = self._context
        silence = heartbeat_interval(request.heartbeat_interval, request.HasField("heartbeat_interval"))
        check_token(request.resume_token, "resume_token")
        known = context.store.snapshot().instances
        filtered, token = caller.filter(request.instance_ids, known), request.resume_token
        del request, known  # they are not to live as long as the stream
        async with filtered as wanted:
            async for message in self._follow(token, wanted, silence, caller):
                yield message

    async def _follow(
        self, resume_token: str, wanted: frozenset[str], silence: float, caller: Caller
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        context = self._context
        cursor = context.store.last_sequence
        opening = True  # whoever asks is told at once that it is heard, and where to resume
        if resume_token:
            epoch, cursor = convert.read_token(resume_token)
            if epoch != context.daemon.epoch or cursor > context.store.last_sequence:
                text = "the daemon was started again since; what happened in between is not known"
                yield self._message([], 0, pb.EventGap(message=text))
                cursor = 0
                opening = False
        with context.hub.watcher(silence) as watcher:
            while True:
                seen = context.hub.revision
                news = context.store.events_since(cursor, BATCH)
                if len(news.events) > FEW:
                    async with caller.quotas.messages:
                        message = self._batch(news, wanted)
                else:
                    message = self._batch(news, wanted)
                if message is None and opening:
                    message = self._message([], news.last)
                opening = False
                if message is not None:
                    yield message
                    watcher.sent()
                if news.last != cursor:
                    cursor = news.last
                    continue
                if not await watcher.wait(seen):
                    yield self._message([], cursor)

    def _batch(self, news: Events, wanted: frozenset[str]) -> pb.WatchEventsResponse | None:
        events = [e for e in news.events if _concerns(e, wanted)]
        gap = None
        if news.missed:
            text = f"{news.missed} events are no longer kept"
            gap = pb.EventGap(missed=news.missed, message=text)
        if not events and gap is None:
            return None
        return self._message(events, news.last, gap)

    def _message(
        self, events: list[PublishedEntry], cursor: int, gap: pb.EventGap | None = None
    ) -> pb.WatchEventsResponse:
        return pb.WatchEventsResponse(
            events=[convert.event(e) for e in events],
            gap=gap,
            resume_token=self._context.token(cursor),
            time=convert.timestamp(self._context.now()),
        )


def _concerns(event: PublishedEntry, wanted: frozenset[str]) -> bool:
    return not wanted or event.entry.instance_id in wanted
