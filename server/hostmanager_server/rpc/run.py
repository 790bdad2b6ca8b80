"""Run: one run of a one-shot, with its output and its end."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core import jobs
from hostmanager_server.core.model import Exit, Instance
from hostmanager_server.core.plan import BadEntry
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.rpc import convert
from hostmanager_server.rpc.call_origin import origin_of
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.context import RpcContext, carry_out
from hostmanager_server.rpc.convert import process_log_lines
from hostmanager_server.rpc.errors import FieldViolation, from_request_error, invalid, logs_unreadable
from hostmanager_server.rpc.ports import RefusedFileError, RunWindow, WantedLines
from hostmanager_server.rpc.validation import check_id
from hostmanager_server.supervisor import InvalidRequestError, JobAccepted

MAX_ARGUMENTS = 100
MAX_ARGUMENT = 4096  # characters
_WAITING = 8  # messages that a slow reader leaves waiting


class RunRpcs:
    """The Run streams."""

    def __init__(self, context: RpcContext) -> None:
        """Run through the context's supervisor."""
        self._context = context

    async def run(self, request: pb.RunRequest, caller: Caller) -> AsyncIterator[pb.RunResponse]:
        """Run a one-shot once; yield its output, then its end."""
        _check(request)
        context = self._context
        name, arguments = request.instance, list(request.arguments)
        tracked = context.store.snapshot().instances
        check_id(name, "instance", tracked)
        found = jobs.find({key: each.instance for key, each in tracked.items()}, name)
        if isinstance(found, BadEntry):
            raise from_request_error(InvalidRequestError([found]), "instance")
        before, origin = tracked[found].instance, origin_of(caller, "", context.now())
        del request, tracked  # must not live as long as the stream
        window = RunWindow()
        messages: asyncio.Queue[pb.RunResponse | None] = asyncio.Queue(_WAITING)
        with caller.admission.log_streams.hold(caller.client):
            reader = asyncio.ensure_future(self._read(before.spec, window, messages))
            try:
                await _first(reader, window.opened)
                if reader.done():
                    reader.result()  # raises what went wrong
                accepted = await carry_out(context.supervisor.run_once(found, arguments, origin), "instance")
                yield pb.RunResponse(instance_id=accepted.instance_id)
                follower = asyncio.ensure_future(self._follow(accepted, window, messages))
                try:
                    async for message in context.hub.until_closed(_all(messages)):
                        yield message
                    reader.result()
                    yield _end(await follower, before.observed.last_exit)
                finally:
                    follower.cancel()
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await reader

    async def _read(
        self, spec: InstanceSpec, window: RunWindow, messages: asyncio.Queue[pb.RunResponse | None]
    ) -> None:
        """Pass on the output until the end of the run, then None."""
        wanted = WantedLines(0, follow=True)
        batches = self._context.outputs.read(spec.instance_id, spec.log, wanted, window=window)
        try:
            async with aclosing(batches):
                async for batch in batches:
                    if batch:
                        await messages.put(pb.RunResponse(lines=process_log_lines(batch)))
        except RefusedFileError as error:
            await messages.put(None)
            raise logs_unreadable(f"cannot read the output of {spec.instance_id!r}: {error}") from error
        await messages.put(None)

    async def _follow(
        self, accepted: JobAccepted, window: RunWindow, messages: asyncio.Queue[pb.RunResponse | None]
    ) -> Instance | None:
        """Pass on what the run waits for, and return the instance after the run; None if it is gone."""
        store, told = self._context.store, ""
        try:
            with self._context.hub.watcher(math.inf) as watcher:
                while True:
                    snapshot = store.snapshot()
                    tracked = snapshot.instances.get(accepted.instance_id)
                    if tracked is None:
                        return None
                    instance = tracked.instance
                    run = instance.observed.run
                    over = instance.wanted.job is None and (run is None or run.number > accepted.run)
                    if over and snapshot.revision >= accepted.revision:
                        return instance
                    waits = instance.standing.message if instance.observed.waiting_for else ""
                    if run is None and waits != told:
                        told = waits
                        await messages.put(pb.RunResponse(message=waits))
                    await watcher.wait(snapshot.revision)
        finally:
            window.ended.set()


def _check(request: pb.RunRequest) -> None:
    if not request.instance:
        text = "name an instance, or an agent class with a single one-shot"
        raise invalid(text, FieldViolation("instance", text))
    if len(request.arguments) > MAX_ARGUMENTS:
        text = f"arguments must be at most {MAX_ARGUMENTS}, not {len(request.arguments)}"
        raise invalid(text, FieldViolation("arguments", text))
    for index, argument in enumerate(request.arguments):
        if len(argument) > MAX_ARGUMENT or "\0" in argument:
            text = f"an argument must have at most {MAX_ARGUMENT} characters, and no NUL"
            raise invalid(text, FieldViolation(f"arguments[{index}]", text))


def _end(instance: Instance | None, exit_before: Exit | None) -> pb.RunResponse:
    """Return the last message: the exit of the run, or why there is none."""
    if instance is None:
        return pb.RunResponse(ended=True, message="the instance left the list before its end")
    last_exit = instance.observed.last_exit
    if last_exit is None or last_exit == exit_before:
        return pb.RunResponse(ended=True, message=instance.observed.start_error or instance.standing.message)
    return pb.RunResponse(ended=True, message=last_exit.why, exit=convert.exit_(last_exit))


async def _all(messages: asyncio.Queue[pb.RunResponse | None]) -> AsyncIterator[pb.RunResponse]:
    while (message := await messages.get()) is not None:
        yield message


async def _first(reader: asyncio.Future[Any], opened: asyncio.Event) -> None:
    """Wait until the reader stands at its place, or has failed."""
    waiter: asyncio.Future[Any] = asyncio.ensure_future(opened.wait())
    await asyncio.wait([reader, waiter], return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
