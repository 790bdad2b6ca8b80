"""TailLogs: what an instance wrote, and goes on writing."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.spec import InstanceSpec, Management
from hostmanager_server.drivers.compose.logs.demultiplexer import LogsError, OutputLine, Source
from hostmanager_server.drivers.output.directory_walk import RefusedFileError
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import Line, RpcContext
from hostmanager_server.rpc.errors import (
    FieldViolation,
    engine_unusable,
    invalid,
    logs_unreadable,
    not_operable,
)
from hostmanager_server.rpc.limits import Turns
from hostmanager_server.rpc.status import find

DEFAULT_LINES = 100
MAX_LINES = 100_000

_STREAMS = {
    Source.STDOUT: pb.LOG_STREAM_STDOUT,
    Source.STDERR: pb.LOG_STREAM_STDERR,
    Source.COMBINED: pb.LOG_STREAM_COMBINED,
}


class LogRpcs:
    def __init__(self, context: RpcContext) -> None:
        self._context = context

    async def tail_logs(self, request: pb.TailLogsRequest, caller: Caller) -> AsyncIterator[bytes]:
        context = self._context
        snapshot = context.store.snapshot()
        spec = snapshot.instances[find(snapshot, request.instance_id)].instance.spec
        lines = request.lines if request.HasField("lines") else DEFAULT_LINES
        if not 0 <= lines <= MAX_LINES:
            text = f"lines must be 0 to {MAX_LINES}, not {lines}"
            raise invalid(text, FieldViolation("lines", text))
        follow = request.follow
        del request, snapshot  # they are not to live as long as the stream
        if spec.management is Management.DOCKER:
            batches = self._of_service(spec, lines, follow)
        else:
            batches = self._of_process(spec, lines, follow)
        messages = _messages(batches, caller.quotas.messages)
        with caller.quotas.log_streams.hold(caller.client):
            if follow:  # a quiet instance's follower is to know, too, that it follows
                yield pb.TailLogsResponse().SerializeToString()
            async for message in context.hub.until_closed(messages):
                yield message

    async def _of_process(
        self, spec: InstanceSpec, lines: int, follow: bool
    ) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        batches = self._context.outputs.read(spec.instance_id, spec.log, lines, follow=follow)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield _lines_of_process(batch)
                    del batch
        except RefusedFileError as error:
            raise logs_unreadable(f"cannot read the output of {spec.instance_id!r}: {error}") from error

    async def _of_service(
        self, spec: InstanceSpec, lines: int, follow: bool
    ) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        engine = self._context.engine
        if engine is None or spec.service is None:
            raise not_operable(spec.instance_id, spec.problem)
        if problem := await self._context.engine_problem():
            raise engine_unusable(problem)
        batches = engine.read_logs(self._containers(spec.instance_id), lines, follow=follow)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield _lines_of_service(batch)
                    del batch
        except LogsError as error:
            raise (logs_unreadable if error.lasting else engine_unusable)(str(error)) from error

    async def _containers(self, instance_id: str) -> AsyncIterator[Sequence[str]]:
        """The ids of the instance's containers, and again whenever it has changed, until it has left."""
        store = self._context.store
        with self._context.hub.watcher(math.inf) as watcher:
            told = -1
            while True:
                snapshot = store.snapshot()
                tracked = snapshot.instances.get(instance_id)
                if tracked is None:
                    return
                if tracked.revision > told:
                    told = tracked.revision
                    record = tracked.instance.observed.service
                    yield record.container_ids if record is not None else ()
                await watcher.wait(snapshot.revision)


async def _messages(
    batches: AsyncGenerator[Iterable[pb.LogLine], None], turns: Turns
) -> AsyncGenerator[bytes, None]:
    """A message for each batch, made in its turn. A reader that stalls holds the bytes of one alone."""
    async with aclosing(batches):
        async for batch in batches:
            async with turns:
                message = pb.TailLogsResponse(lines=batch).SerializeToString()
            del batch
            yield message


def _lines_of_process(batch: Sequence[Line]) -> Iterator[pb.LogLine]:
    for line in batch:
        yield pb.LogLine(text=line.text, continues=line.continues, stream=pb.LOG_STREAM_COMBINED)


def _lines_of_service(batch: Sequence[OutputLine]) -> Iterator[pb.LogLine]:
    for line in batch:
        yield pb.LogLine(text=line.text, continues=line.continues, stream=_STREAMS[line.source])
