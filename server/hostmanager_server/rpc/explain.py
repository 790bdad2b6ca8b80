"""Explain: why instances are not as wanted, from the present state and the remembered events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import islice

from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.event_selection import ALL_EVENTS, EventSelection
from hostmanager_server.core.events import Instant
from hostmanager_server.core.hints import hints
from hostmanager_server.core.model import Exit, Instance, State
from hostmanager_server.core.past import Past, is_as_wanted
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.selecting import select_ids
from hostmanager_server.rpc.validation import check_ids
from hostmanager_server.state.store import PublishedEntry, Snapshot

MAX_EXPLANATIONS = 100
MAX_NEEDED_BY = 20
# The newest events that an explanation reads; an older past is not searched.
MOST_EVENTS = 20_000
MOST_HOST_EVENTS = 2_000
_AT_ONCE = 2_000  # events between two turns of the event loop

Pasts = Mapping[str, Past[PublishedEntry]]


class ExplainRpc:
    """The RPC that explains."""

    def __init__(self, context: RpcContext) -> None:
        """Read the context's snapshot and history of events."""
        self._context = context

    async def explain(self, request: pb.ExplainRequest) -> pb.ExplainResponse:
        """Return an explanation for each instance that is not as wanted, or for the named ones."""
        context = self._context
        snapshot = context.store.snapshot()
        check_ids(request.instance_ids, "instance_ids", snapshot.instances)
        chosen = select_ids(snapshot, request.instance_ids)
        as_wanted = {i: is_as_wanted(snapshot.instances[i].instance) for i in snapshot.ids}
        if not request.instance_ids:
            chosen = [instance_id for instance_id in chosen if not as_wanted[instance_id]]
        ids = sorted(chosen, key=lambda each: (as_wanted[each], each))[:MAX_EXPLANATIONS]
        now = context.now()
        pasts = await self._pasts(snapshot, ids, now)
        needed_by = _needed_by(snapshot)
        response = pb.ExplainResponse(
            revision=snapshot.revision,
            time=convert.timestamp(now),
            manager=convert.manager_status(snapshot.manager, context.daemon),
            more=len(chosen) - len(ids),
            as_wanted=sum(as_wanted.values()),
        )
        for instance_id in ids:
            found = response.explanations.add(
                as_wanted=as_wanted[instance_id], needed_by=needed_by.get(instance_id, ())[:MAX_NEEDED_BY]
            )
            found.instance.MergeFromString(context.convert(snapshot.instances[instance_id], now))
            _fill(found, snapshot.instances[instance_id].instance, pasts[instance_id])
        return response

    async def _pasts(self, snapshot: Snapshot, ids: Iterable[str], now: Instant) -> Pasts:
        pasts = {i: Past[PublishedEntry](snapshot.instances[i].instance, now) for i in ids}
        if not pasts:
            return pasts
        # Events of the host concern every instance: an empty id stands for them.
        selection = EventSelection(instance_ids=frozenset({*pasts, ""})) if len(pasts) < 8 else ALL_EVENTS
        events = islice(self._context.history.newest(selection), MOST_EVENTS)
        async with self._context.event_files:
            of_host = 0  # events, each of which goes to every past
            more = True
            while more:
                more, of_host = await asyncio.to_thread(_read_some, events, pasts, of_host)
        return pasts


def _read_some(events: Iterable[PublishedEntry], pasts: Pasts, of_host: int) -> tuple[bool, int]:
    """Give the next events to the pasts that they concern.

    Returns whether more are wanted, and the number of events of the host so far.
    """
    open_pasts = {i: past for i, past in pasts.items() if not past.complete}
    read = 0
    for event in islice(events, _AT_ONCE):
        read += 1
        instance_id = event.entry.instance_id
        if not instance_id:
            of_host += 1
            if of_host <= MOST_HOST_EVENTS:
                for past in open_pasts.values():
                    past.add(event)
        elif (own := open_pasts.get(instance_id)) is not None:
            own.add(event)
            if own.complete:
                del open_pasts[instance_id]
                if not open_pasts:
                    return False, of_host
    return read == _AT_ONCE, of_host


def _needed_by(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return the instances that wait, by the id of the instance for which they wait."""
    found: dict[str, list[str]] = {}
    for instance_id in snapshot.ids:
        instance = snapshot.instances[instance_id].instance
        if instance.standing.state is State.START:
            for unmet in instance.observed.waiting_for:
                found.setdefault(unmet.instance_id, []).append(instance_id)
    return found


def _fill(message: pb.Explanation, instance: Instance, past: Past[PublishedEntry]) -> None:
    message.ends.extend(convert.event(each) for each in past.ends)
    message.more_ends = past.more_ends
    if (worked := past.last_worked) is not None:
        message.last_worked.start_time.CopyFrom(_timestamp(worked.start))
        if worked.end is not None:
            message.last_worked.end_time.CopyFrom(_timestamp(worked.end))
    if message.as_wanted:
        return
    if past.since is not None:
        message.since.CopyFrom(_timestamp(past.since))
    message.changes.extend(convert.event(each) for each in past.changes)
    message.hints.extend(hints(instance, _end_of(instance, past)))


def _end_of(instance: Instance, past: Past[PublishedEntry]) -> Exit | None:
    """Return the exit that the present trouble is about."""
    newest = past.ends[0].entry if past.ends else None
    if newest is not None:
        return newest.exit
    return instance.observed.last_exit if not past.complete else None


def _timestamp(wall: float) -> Timestamp:
    return convert.timestamp(Instant(0.0, wall))
