"""ListEvents and WatchEvents: the event log, in pages and as a stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.event_selection import EventSelection
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.errors import FieldViolation, invalid
from hostmanager_server.rpc.selecting import InstanceFilter, parse_selectors, select_events
from hostmanager_server.rpc.tokens import read_token
from hostmanager_server.rpc.validation import check_ids, check_token, heartbeat_interval, page_size
from hostmanager_server.state.event_segments import EVENTS_REMEMBERED
from hostmanager_server.state.store import Events, PublishedEntry

MAX_REASONS = 100
_WORD = re.compile("[A-Za-z]{1,80}")
_SEVERITIES = {
    pb.SEVERITY_UNSPECIFIED: Severity.INFO,
    pb.SEVERITY_INFO: Severity.INFO,
    pb.SEVERITY_WARNING: Severity.WARNING,
    pb.SEVERITY_ERROR: Severity.ERROR,
}
DEFAULT_PAGE = 100
BATCH = 500  # events in one message of a stream: some 100 KiB
UNPACED_EVENTS = 20  # the most events that are converted without waiting for the pacer


class EventRpcs:
    """The RPCs that read the event log."""

    def __init__(self, context: RpcContext) -> None:
        """Serve from the context's history of events."""
        self._context = context

    async def list_events(self, request: pb.ListEventsRequest) -> pb.ListEventsResponse:
        """Return a page of events, oldest first."""
        context = self._context
        size = page_size(request.page_size, DEFAULT_PAGE)
        if request.newest < 0 or request.newest > EVENTS_REMEMBERED:
            text = f"newest must be 0 (all that are kept) to {EVENTS_REMEMBERED}, not {request.newest}"
            raise invalid(text, FieldViolation("newest", text))
        check_ids(request.instance_ids, "instance_ids", context.store.snapshot().instances)
        check_token(request.page_token, "page_token")
        known = context.store.snapshot().instances
        named, selectors = parse_selectors(request.selectors, known)
        wanted = InstanceFilter(named.union(request.instance_ids), selectors)
        selection = select_events(read_selection(request), wanted, known)
        start = await self._page_start(request.page_token, request.newest, selection)
        page = await self._read(start, selection, size + 1)
        events, rest = page.events[:size], page.events[size:]
        last = events[-1].sequence if rest else page.last
        return pb.ListEventsResponse(
            events=[convert.event(entry) for entry in events],
            next_page_token=context.token(last) if rest else "",
            resume_token=context.token(last),
        )

    async def _page_start(self, page_token: str, newest: int, selection: EventSelection) -> int:
        """Return the sequence number that the page follows."""
        history = self._context.history
        if not page_token:
            if not newest:
                return history.oldest - 1
            if selection.everything:
                return max(history.oldest - 1, history.before_newest(newest, selection))
            async with self._context.event_files:
                return await asyncio.to_thread(history.before_newest, newest, selection)
        epoch, after = read_token(page_token, "page_token")
        if epoch != self._context.daemon.epoch:
            text = "page_token is from before the daemon was last started; start afresh without it"
            raise invalid(text, FieldViolation("page_token", text))
        return after

    async def _read(self, after: int, selection: EventSelection, limit: int) -> Events:
        """Return the next selected events; older ones come from files, one reader at a time."""
        history = self._context.history
        if history.in_memory(after):
            return history.after(after, selection, limit)
        async with self._context.event_files:
            return await asyncio.to_thread(history.after, after, selection, limit)

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
        selection = read_selection(request)
        filtered = caller.filter(request.instance_ids, known, list(request.selectors))
        token = request.resume_token
        del request, known  # must not live as long as the stream
        async with filtered as wanted:
            selection = select_events(selection, wanted, context.store.snapshot().instances)
            async for message in self._follow(token, selection, silence, caller):
                yield message

    async def _follow(
        self, resume_token: str, selection: EventSelection, silence: float, caller: Caller
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        context = self._context
        cursor, gap = await self._begin(resume_token, selection)
        greeted = False  # the first message comes at once: the client learns where to resume
        if gap is not None:
            yield self._message([], cursor, gap)
            greeted = True
        with context.hub.watcher(silence) as watcher:
            while True:
                revision = context.hub.revision
                batch = await self._read(cursor, selection, BATCH)
                message = await self._batch_message(batch, caller)
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

    async def _begin(self, resume_token: str, selection: EventSelection) -> tuple[int, pb.EventGap | None]:
        """Return the sequence number that the stream follows, and the gap that it begins with."""
        context, history = self._context, self._context.history
        if not resume_token:
            return (history.last if selection.since is None else history.oldest - 1), None
        epoch, position = read_token(resume_token)
        if epoch == context.daemon.epoch and position <= history.last:
            return position, None
        resumption = None
        if epoch != context.daemon.epoch:
            async with context.event_files:
                resumption = await asyncio.to_thread(history.resume, epoch, position)
        if resumption is None:
            text = "the daemon no longer knows the position; earlier events may be lost"
            return context.store.first_sequence - 1, convert.event_gap(text)
        if resumption.lossy:
            text = "a daemon died since; the events of its last moments may be lost"
            return resumption.sequence, convert.event_gap(text)
        return resumption.sequence, None

    async def _batch_message(self, batch: Events, caller: Caller) -> pb.WatchEventsResponse | None:
        """Return the message for a batch, None if it has nothing for the reader."""
        if not batch.events and not batch.missed:
            return None
        if len(batch.events) <= UNPACED_EVENTS:
            return self._convert(batch)
        async with caller.admission.message_pacer:
            return self._convert(batch)

    def _convert(self, batch: Events) -> pb.WatchEventsResponse:
        gap = None
        if batch.missed:
            gap = convert.event_gap(f"{batch.missed} events are no longer kept", batch.missed)
        return self._message(batch.events, batch.last, gap)

    def _message(
        self, entries: Sequence[PublishedEntry], cursor: int, gap: pb.EventGap | None = None
    ) -> pb.WatchEventsResponse:
        return convert.events_message(entries, self._context.token(cursor), self._context.now(), gap)


def read_selection(request: pb.ListEventsRequest | pb.WatchEventsRequest) -> EventSelection:
    """Return the selection of a request, without instances. Raises RpcError for malformed filters."""
    if len(request.reasons) > MAX_REASONS:
        text = f"reasons must be at most {MAX_REASONS} words, not {len(request.reasons)}"
        raise invalid(text, FieldViolation("reasons", text))
    for index, reason in enumerate(request.reasons):
        if not _WORD.fullmatch(reason):
            text = (
                f"{reason[:80]!r} is no reason of an event, which is a word such as Exited; "
                "docs/reference/events.md lists all words"
            )
            raise invalid(text, FieldViolation(f"reasons[{index}]", text))
    severity = _SEVERITIES.get(request.min_severity)
    if severity is None:
        text = "min_severity must be INFO, WARNING or ERROR"
        raise invalid(text, FieldViolation("min_severity", text))
    until = None
    if isinstance(request, pb.ListEventsRequest) and request.HasField("until"):
        until = request.until.ToNanoseconds() / 1e9
    return EventSelection(
        frozenset(),
        frozenset(request.reasons),
        severity,
        request.since.ToNanoseconds() / 1e9 if request.HasField("since") else None,
        until,
    )
