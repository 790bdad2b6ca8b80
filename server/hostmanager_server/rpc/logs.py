"""TailLogs: the output of an instance, from its files or from the Docker Engine."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.spec import InstanceSpec, LogPolicy, Management
from hostmanager_server.rpc.admission import Pacer
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert import process_log_lines
from hostmanager_server.rpc.convert_docker import service_log_lines
from hostmanager_server.rpc.errors import (
    FieldViolation,
    engine_unusable,
    invalid,
    logged_by_systemd,
    logs_unreadable,
    not_operable,
)
from hostmanager_server.rpc.ports import LogsError, OwnLog, RefusedFileError
from hostmanager_server.rpc.status import require_instance

DEFAULT_LINES = 100
MAX_LINES = 100_000


class LogRpcs:
    """The TailLogs streams."""

    def __init__(self, context: RpcContext) -> None:
        """Read output through the context's ports."""
        self._context = context

    async def tail_logs(self, request: pb.TailLogsRequest, caller: Caller) -> AsyncIterator[bytes]:
        """Yield the last lines, then with `follow` every new line, as serialized messages."""
        context = self._context
        snapshot = context.store.snapshot()
        own = request.daemon
        if own and request.instance_id:
            text = "give an instance_id, or set daemon to true; not both"
            raise invalid(text, FieldViolation("instance_id", text))
        spec = None
        if not own:
            spec = snapshot.instances[require_instance(snapshot, request.instance_id)].instance.spec
        lines = request.lines if request.HasField("lines") else DEFAULT_LINES
        if not 0 <= lines <= MAX_LINES:
            text = f"lines must be 0 to {MAX_LINES}, not {lines}"
            raise invalid(text, FieldViolation("lines", text))
        follow = request.follow
        del request, snapshot  # must not live as long as the stream
        if spec is None:
            batches = self._read_own(lines, follow=follow)
        elif spec.management is Management.DOCKER:
            batches = self._read_service(spec, lines, follow=follow)
        else:
            batches = self._read_process(spec.instance_id, spec.log, lines, follow=follow)
        messages = _messages(batches, caller.admission.message_pacer)
        with caller.admission.log_streams.hold(caller.client):
            if follow:  # an empty message confirms the stream while the instance is quiet
                yield pb.TailLogsResponse().SerializeToString()
            async for message in context.hub.until_closed(messages):
                yield message

    def _read_own(self, lines: int, *, follow: bool) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        own_log = self._context.own_log
        if own_log.policy is None:
            raise logged_by_systemd(own_log.command)
        return self._read_process(OwnLog.NAME, own_log.policy, lines, follow=follow)

    async def _read_process(
        self, name: str, policy: LogPolicy, lines: int, *, follow: bool
    ) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        batches = self._context.outputs.read(name, policy, lines, follow=follow)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield process_log_lines(batch)
                    del batch
        except RefusedFileError as error:
            raise logs_unreadable(f"cannot read the output of {name!r}: {error}") from error

    async def _read_service(
        self, spec: InstanceSpec, lines: int, *, follow: bool
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
                    yield service_log_lines(batch)
                    del batch
        except LogsError as error:
            raise (logs_unreadable if error.lasting else engine_unusable)(str(error)) from error

    async def _containers(self, instance_id: str) -> AsyncIterator[Sequence[str]]:
        """Yield the ids of the instance's containers, after every change, until the instance is dropped."""
        store = self._context.store
        with self._context.hub.watcher(math.inf) as watcher:
            sent_revision = -1
            while True:
                snapshot = store.snapshot()
                tracked = snapshot.instances.get(instance_id)
                if tracked is None:
                    return
                if tracked.revision > sent_revision:
                    sent_revision = tracked.revision
                    status = tracked.instance.observed.service
                    yield status.container_ids if status is not None else ()
                await watcher.wait(snapshot.revision)


async def _messages(
    batches: AsyncGenerator[Iterable[pb.LogLine], None], pacer: Pacer
) -> AsyncGenerator[bytes, None]:
    """Yield a paced message for each batch. A stalled reader holds the bytes of one message."""
    async with aclosing(batches):
        async for batch in batches:
            async with pacer:
                message = pb.TailLogsResponse(lines=batch).SerializeToString()
            del batch
            yield message
