"""RemoveOrphans: containers that no service of their compose file has any more."""

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
from hostmanager_server.rpc.caller import Caller, check_ids
from hostmanager_server.rpc.context import DockerEngine, RpcContext, duration
from hostmanager_server.rpc.errors import (
    FieldViolation,
    engine_unusable,
    invalid_entries,
    no_compose_files,
    unknown_orphans,
)

DEFAULT_STOP_TIMEOUT = 10.0
MAX_STOP_TIMEOUT = 3600.0
SEEN_WITHIN = 5.0  # s for a removal to show in the status


class OrphanRpcs:
    def __init__(self, context: RpcContext) -> None:
        self._context = context

    async def remove_orphans(
        self, request: pb.RemoveOrphansRequest, caller: Caller
    ) -> AsyncIterator[pb.RemoveOrphansResponse]:
        context, engine = self._context, self._context.engine
        if engine is None:
            raise no_compose_files()
        check_ids(request.container_ids, "container_ids", ())
        timeout = DEFAULT_STOP_TIMEOUT
        if request.HasField("stop_timeout"):
            timeout = duration(request.stop_timeout, "stop_timeout", 0.0, MAX_STOP_TIMEOUT)
        if problem := await context.engine_problem():
            raise engine_unusable(problem)
        orphans = _orphans(context.store.snapshot().manager.orphans, list(request.container_ids))
        del request  # it is not to live as long as the stream
        with caller.quotas.engine_streams.hold(caller.client):
            if orphans:
                names = listed([f"{orphan.container_id[:12]} ({orphan.service})" for orphan in orphans])
                entry = LogEntry(EntryKind.REQUEST, "RemoveOrphans", f"removal of {names}", context.now())
                context.supervisor.log(entry)
            async for response in context.hub.until_closed(self._remove(engine, orphans, timeout)):
                yield response

    async def _remove(
        self, engine: DockerEngine, orphans: Sequence[Orphan], stop_timeout: float
    ) -> AsyncIterator[pb.RemoveOrphansResponse]:
        tasks = [asyncio.ensure_future(self._remove_one(engine, orphan, stop_timeout)) for orphan in orphans]
        done: list[pb.OrphanRemoval] = []
        try:
            for task in asyncio.as_completed(tasks):
                done.append(await task)
                yield pb.RemoveOrphansResponse(removal=done[-1])
        finally:
            for left in tasks:
                left.cancel()
        await self._until_gone({removal.container_id for removal in done if removal.removed})
        removed = sum(removal.removed for removal in done)
        result = pb.RemoveOrphansResult(removed=removed, failed=len(done) - removed)
        yield pb.RemoveOrphansResponse(result=result)

    async def _remove_one(
        self, engine: DockerEngine, orphan: Orphan, stop_timeout: float
    ) -> pb.OrphanRemoval:
        def is_orphan() -> bool:
            return orphan.container_id in self._context.store.snapshot().manager.orphans

        message = await engine.remove_container(orphan.container_id, stop_timeout, is_orphan)
        who = f"container {orphan.container_id[:12]} of service {orphan.service!r}"
        if message:
            told, severity = f"{who} was not removed: {message}", Severity.WARNING
        else:
            told, severity = f"{who} was removed", Severity.INFO
        reason = "OrphanNotRemoved" if message else "OrphanRemoved"
        entry = LogEntry(EntryKind.REQUEST, reason, told, self._context.now(), severity=severity)
        await asyncio.wrap_future(self._context.supervisor.log(entry))
        return pb.OrphanRemoval(
            container_id=orphan.container_id, compose_file=orphan.compose_file, service=orphan.service,
            removed=not message, message=message,
        )  # fmt: skip

    async def _until_gone(self, container_ids: set[str]) -> None:
        """Wait until the status shows what was done: whoever asks for it next is not to be told otherwise."""
        store = self._context.store
        with suppress(TimeoutError), self._context.hub.watcher(math.inf) as watcher:
            async with asyncio.timeout(SEEN_WITHIN):
                while container_ids & set((snapshot := store.snapshot()).manager.orphans):
                    await watcher.wait(snapshot.revision)


def _orphans(known: Mapping[str, Orphan], asked: list[str]) -> list[Orphan]:
    """The orphans that these beginnings of ids name; all when there are none. Raises RpcError for those that
    name none, or more than one."""
    if not asked:
        return list(known.values())
    ordered = sorted(known)  # a thousand beginnings are looked up among a thousand ids
    found: dict[str, Orphan] = {}
    bad: list[FieldViolation] = []
    unknown = True
    for index, beginning in enumerate(asked):
        matching = _beginning_with(beginning, ordered) if beginning else []
        if len(matching) == 1:
            found[matching[0]] = known[matching[0]]
            continue
        if matching:
            unknown = False
        what = f"{len(matching)} orphans begin with" if matching else "no orphan has the container id"
        bad.append(FieldViolation(f"container_ids[{index}]", f"{what} {beginning!r}"))
    if bad and unknown:
        raise unknown_orphans(bad)
    if bad:
        raise invalid_entries(bad)
    return list(found.values())


def _beginning_with(beginning: str, ordered: Sequence[str]) -> Sequence[str]:
    """Those of the texts that begin so."""
    start = bisect_left(ordered, beginning)
    stop = bisect_left(ordered, True, start, key=lambda text: not text.startswith(beginning))
    return ordered[start:stop]
