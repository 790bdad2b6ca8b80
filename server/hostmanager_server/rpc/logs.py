"""TailLogs: what an instance wrote, and goes on writing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.spec import InstanceSpec, Management
from hostmanager_server.drivers.compose.output import LogsError, Source
from hostmanager_server.drivers.trusted_path import RefusedFileError
from hostmanager_server.rpc.context import Context
from hostmanager_server.rpc.errors import (
    Violation,
    engine_unusable,
    invalid,
    logs_unreadable,
    not_operable,
)
from hostmanager_server.rpc.status import find

DEFAULT_LINES = 100
MAX_LINES = 100_000

_STREAMS = {
    Source.STDOUT: pb.LOG_STREAM_STDOUT,
    Source.STDERR: pb.LOG_STREAM_STDERR,
    Source.COMBINED: pb.LOG_STREAM_COMBINED,
}


class LogRpcs:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def tail_logs(self, request: pb.TailLogsRequest, peer: str) -> AsyncIterator[pb.TailLogsResponse]:
        context = self._context
        snapshot = context.store.snapshot()
        spec = snapshot.instances[find(snapshot, request.instance_id)].instance.spec
        lines = request.lines if request.HasField("lines") else DEFAULT_LINES
        if not 0 <= lines <= MAX_LINES:
            text = f"lines must be 0 to {MAX_LINES}, not {lines}"
            raise invalid(text, Violation("lines", text))
        if spec.management is Management.DOCKER:
            batches = self._of_service(spec, lines, request.follow)
        else:
            batches = self._of_process(spec, lines, request.follow)
        with context.hub.watcher(peer, silence=math.inf):
            if request.follow:  # a quiet instance's follower is to know, too, that it follows
                yield pb.TailLogsResponse()
            async for batch in context.hub.until_closed(batches):
                yield pb.TailLogsResponse(lines=batch)

    async def _of_process(
        self, spec: InstanceSpec, lines: int, follow: bool
    ) -> AsyncGenerator[list[pb.LogLine], None]:
        batches = self._context.outputs.read(spec.instance_id, spec.log, lines, follow)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield [
                        pb.LogLine(text=line.text, continues=line.continues, stream=pb.LOG_STREAM_COMBINED)
                        for line in batch
                    ]
        except RefusedFileError as error:
            raise logs_unreadable(f"cannot read the output of {spec.instance_id!r}: {error}") from error

    async def _of_service(
        self, spec: InstanceSpec, lines: int, follow: bool
    ) -> AsyncGenerator[list[pb.LogLine], None]:
        engine = self._context.engine
        if engine is None or spec.service is None:
            raise not_operable(spec.instance_id, spec.problem)
        if problem := await asyncio.to_thread(engine.problem):
            raise engine_unusable(problem)
        batches = engine.read_logs(self._containers(spec.instance_id), lines, follow)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield [
                        pb.LogLine(text=line.text, continues=line.continues, stream=_STREAMS[line.source])
                        for line in batch
                    ]
        except LogsError as error:
            raise (logs_unreadable if error.lasting else engine_unusable)(str(error)) from error

    async def _containers(self, instance_id: str) -> AsyncIterator[Sequence[str]]:
        """The ids of the instance's containers, and again whenever it has changed, until it has left."""
        store = self._context.store
        with self._context.hub.own_watcher(math.inf) as watcher:
            told = -1
            while True:
                snapshot = store.snapshot()
                tracked = snapshot.instances.get(instance_id)
                if tracked is None:
                    return
                if tracked.revision > told:
                    told = tracked.revision
                    record = tracked.instance.record
                    yield record.container_ids if record is not None else ()
                await watcher.wait(snapshot.revision)
