"""TailLogs: the output of an instance, from its files or from the Docker Engine."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.model import Instance, Phase
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
    no_such_run,
    not_operable,
)
from hostmanager_server.rpc.ports import LogsError, NoSuchRunError, OwnLog, RefusedFileError, WantedLines
from hostmanager_server.rpc.status import require_instance

DEFAULT_LINES = 100
MAX_LINES = 100_000
_LATEST = 253_402_300_799  # the last second of the year 9999


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
        instance = spec = None
        if not own:
            instance = snapshot.instances[require_instance(snapshot, request.instance_id)].instance
            spec = instance.spec
        wanted = _wanted(request, running=instance is None or _runs(instance))
        del request, snapshot, instance  # must not live as long as the stream
        if spec is None:
            batches = self._read_own(wanted)
        elif spec.management is Management.DOCKER:
            batches = self._read_service(spec, wanted)
        else:
            batches = self._read_process(spec.instance_id, spec.log, wanted)
        messages = _messages(batches, caller.admission.message_pacer)
        with caller.admission.log_streams.hold(caller.client):
            if wanted.follow:  # an empty message confirms the stream while the instance is quiet
                yield pb.TailLogsResponse().SerializeToString()
            async for message in context.hub.until_closed(messages):
                yield message

    def _read_own(self, wanted: WantedLines) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        own_log = self._context.own_log
        if own_log.policy is None:
            raise logged_by_systemd(own_log.command)
        return self._read_process(OwnLog.NAME, own_log.policy, wanted)

    async def _read_process(
        self, name: str, policy: LogPolicy, wanted: WantedLines
    ) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        batches = self._context.outputs.read(name, policy, wanted)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    yield process_log_lines(batch)
                    del batch
        except NoSuchRunError as error:
            raise no_such_run(name) from error
        except RefusedFileError as error:
            raise logs_unreadable(f"cannot read the output of {name!r}: {error}") from error

    async def _read_service(
        self, spec: InstanceSpec, wanted: WantedLines
    ) -> AsyncGenerator[Iterable[pb.LogLine], None]:
        engine = self._context.engine
        if engine is None or spec.service is None:
            raise not_operable(spec.instance_id, spec.problem)
        if problem := await self._context.engine_problem():
            raise engine_unusable(problem)
        batches = engine.read_logs(self._containers(spec.instance_id), wanted)
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


def _runs(instance: Instance) -> bool:
    run = instance.observed.run
    return run is not None and run.phase not in (Phase.LAUNCHING, Phase.ENDING)


def _wanted(request: pb.TailLogsRequest, *, running: bool) -> WantedLines:
    """Return the wanted lines; `running`: the instance has a run. Raises RpcError for contradictions."""
    lines = request.lines if request.HasField("lines") else DEFAULT_LINES
    since = _seconds(request, "since")
    until = _seconds(request, "until")
    refused: dict[str, str] = {}
    if not 0 <= lines <= MAX_LINES:
        refused["lines"] = f"lines must be 0 to {MAX_LINES}, not {lines}"
    if request.follow and until is not None:
        refused["until"] = "until and follow exclude each other"
    if request.follow and request.previous:
        refused["previous"] = "previous and follow exclude each other: a run that has ended writes no more"
    if since is not None and until is not None and until < since:
        refused["until"] = "until lies before since"
    if refused:
        raise invalid(next(iter(refused.values())), *(FieldViolation(*each) for each in refused.items()))
    runs_back = (2 if running else 1) if request.previous else 0
    return WantedLines(lines, request.follow, since, until, runs_back)


def _seconds(request: pb.TailLogsRequest, name: str) -> float | None:
    if not request.HasField(name):  # type: ignore[arg-type]  # one of the two literals
        return None
    stamp = getattr(request, name)
    if not 0 <= stamp.seconds <= _LATEST or not 0 <= stamp.nanos < 10**9:
        text = f"{name} must be a time from 1970 to 9999"
        raise invalid(text, FieldViolation(name, text))
    return float(stamp.seconds + stamp.nanos / 1e9)


async def _messages(
    batches: AsyncGenerator[Iterable[pb.LogLine], None], pacer: Pacer
) -> AsyncGenerator[bytes, None]:
    """Yield a paced message for each batch. A stalled reader holds the bytes of one message."""
    async with aclosing(batches):
        async for batch in batches:
            async with pacer:
                message = pb.TailLogsResponse(lines=batch)
                message.caught_up = not message.lines  # readers mark that place by an empty batch
                data = message.SerializeToString()
            del batch
            yield data
