"""RemoveOrphans: remove containers that no service of their compose file has any longer."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.actions import listed
from hostmanager_server.core.compose import Orphan
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.origin import Origin
from hostmanager_server.rpc.call_origin import origin_of
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert_docker import orphan_removal, removals_result
from hostmanager_server.rpc.errors import (
    FieldViolation,
    engine_unusable,
    invalid_entries,
    no_compose_files,
    unknown_orphans,
)
from hostmanager_server.rpc.ports import DockerEngine
from hostmanager_server.rpc.validation import check_ids, duration

DEFAULT_STOP_TIMEOUT = 10.0  # s
MAX_STOP_TIMEOUT = 3600.0  # s
SHOWN_WITHIN = 5.0  # the longest wait for the status to show the removals, s


class OrphanRpcs:
    """The RemoveOrphans streams."""

    def __init__(self, context: RpcContext) -> None:
        """Remove containers through the context's engine."""
        self._context = context

    async def remove_orphans(
        self, request: pb.RemoveOrphansRequest, caller: Caller
    ) -> AsyncIterator[pb.RemoveOrphansResponse]:
        """Remove the named orphans, or all; yields each outcome, and the totals at the end."""
        context, engine = self._context, self._context.engine
        if engine is None:
            raise no_compose_files()
        check_ids(request.container_ids, "container_ids", ())
        timeout = DEFAULT_STOP_TIMEOUT
        if request.HasField("stop_timeout"):
            timeout = duration(request.stop_timeout, "stop_timeout", 0.0, MAX_STOP_TIMEOUT)
        origin = origin_of(caller, request.reason, context.now())
        if problem := await context.engine_problem():
            raise engine_unusable(problem)
        orphans = _select(context.store.snapshot().manager.orphans, list(request.container_ids))
        del request  # must not live as long as the stream
        with caller.admission.engine_streams.hold(caller.client):
            if orphans:
                names = listed([f"{orphan.container_id[:12]} ({orphan.service})" for orphan in orphans])
                entry = LogEntry(
                    EntryKind.REQUEST, "RemoveOrphans", f"removal of {names}", context.now(), origin=origin
                )
                context.supervisor.log(entry)
            removals = self._remove(engine, orphans, timeout, origin)
            async for response in context.hub.until_closed(removals):
                yield response

    async def _remove(
        self, engine: DockerEngine, orphans: Sequence[Orphan], stop_timeout: float, origin: Origin
    ) -> AsyncIterator[pb.RemoveOrphansResponse]:
        tasks = [
            asyncio.ensure_future(self._remove_one(engine, orphan, stop_timeout, origin))
            for orphan in orphans
        ]
        removals: list[pb.OrphanRemoval] = []
        try:
            for task in asyncio.as_completed(tasks):
                removals.append(await task)
                yield pb.RemoveOrphansResponse(removal=removals[-1])
        finally:
            for unfinished in tasks:
                unfinished.cancel()
        await self._wait_until_gone({removal.container_id for removal in removals if removal.removed})
        yield removals_result(removals)

    async def _remove_one(
        self, engine: DockerEngine, orphan: Orphan, stop_timeout: float, origin: Origin
    ) -> pb.OrphanRemoval:
        def is_orphan() -> bool:
            return orphan.container_id in self._context.store.snapshot().manager.orphans

        failure = await engine.remove_container(orphan.container_id, stop_timeout, is_orphan)
        name = f"container {orphan.container_id[:12]} of service {orphan.service!r}"
        reason, message, severity = "OrphanRemoved", f"{name} was removed", Severity.INFO
        if failure:
            reason, severity = "OrphanNotRemoved", Severity.WARNING
            message = f"{name} was not removed: {failure}"
        entry = LogEntry(
            EntryKind.REQUEST, reason, message, self._context.now(), severity=severity, origin=origin
        )
        await asyncio.wrap_future(self._context.supervisor.log(entry))
        return orphan_removal(orphan, failure)

    async def _wait_until_gone(self, container_ids: set[str]) -> None:
        """Wait until the status no longer lists the containers, so that the client's next read agrees."""
        store = self._context.store
        with suppress(TimeoutError), self._context.hub.watcher(math.inf) as watcher:
            async with asyncio.timeout(SHOWN_WITHIN):
                while container_ids & set((snapshot := store.snapshot()).manager.orphans):
                    await watcher.wait(snapshot.revision)


def _select(known: Mapping[str, Orphan], prefixes: list[str]) -> list[Orphan]:
    """Return the orphans with these id prefixes, or all orphans when there are no prefixes.

    Raises RpcError for prefixes that match no orphan, or more than one.
    """
    if not prefixes:
        return list(known.values())
    ordered = sorted(known)  # a request may look up a thousand prefixes among a thousand ids
    found: dict[str, Orphan] = {}
    bad: list[FieldViolation] = []
    all_unknown = True
    for index, prefix in enumerate(prefixes):
        matching = _with_prefix(prefix, ordered) if prefix else []
        if len(matching) == 1:
            found[matching[0]] = known[matching[0]]
            continue
        if matching:
            all_unknown = False
        reason = f"{len(matching)} orphans begin with" if matching else "no orphan has the container id"
        bad.append(FieldViolation(f"container_ids[{index}]", f"{reason} {prefix!r}"))
    if bad and all_unknown:
        raise unknown_orphans(bad)
    if bad:
        raise invalid_entries(bad)
    return list(found.values())


def _with_prefix(prefix: str, ordered: Sequence[str]) -> Sequence[str]:
    """Return the texts of a sorted sequence that begin with a prefix."""
    start = bisect_left(ordered, prefix)
    stop = bisect_left(ordered, True, start, key=lambda text: not text.startswith(prefix))
    return ordered[start:stop]
