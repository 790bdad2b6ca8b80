"""HostManagerService: the table of methods, and the handling common to all of them.

Handlers parse requests, pace large ones, count long calls and streams, and turn errors into statuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc.admission import AdmissionControl
from hostmanager_server.rpc.caller import Caller, client_of
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.events import EventRpcs
from hostmanager_server.rpc.explain import ExplainRpc
from hostmanager_server.rpc.handlers import (
    ServicerContext,
    abort,
    parse_request,
    read_data,
    read_request,
    stream_handler,
    unary_handler,
)
from hostmanager_server.rpc.holds import HoldRpcs
from hostmanager_server.rpc.logs import LogRpcs
from hostmanager_server.rpc.orphans import OrphanRpcs
from hostmanager_server.rpc.pull import PullRpcs
from hostmanager_server.rpc.requests import RequestRpcs
from hostmanager_server.rpc.run import RunRpcs
from hostmanager_server.rpc.status import StatusRpcs
from hostmanager_server.rpc.usage import UsageRpcs
from hostmanager_server.rpc.watch import WatchRpcs

SERVICE = pb.DESCRIPTOR.services_by_name["HostManagerService"]


# Calls that wait for something slow: measurements, reading files, starting the installed code, or bringing
# everything down.
LONG_CALLS: Mapping[str, Callable[[Any], bool]] = {
    "Update": lambda request: bool(request.reload_config),
    "StartManager": lambda _: True,
    "StopManager": lambda _: True,
    "GetUsage": lambda _: True,
    "Upgrade": lambda _: True,
    "Die": lambda _: True,
}


MANY = 100  # entries of a request or a response that take the event loop a millisecond or more
# Requests that each server carries out one at a time: large changes in one order, large lists in another.
LARGE_CHANGES: Mapping[str, Callable[[Any], bool]] = {
    "Update": lambda request: len(request.requests) > MANY,
    "StartManager": lambda request: len(request.requests) > MANY,
    "Restart": lambda request: len(request.instance_ids) > MANY,
    "Hold": lambda request: len(request.instance_ids) > MANY,
    "Release": lambda request: len(request.instance_ids) > MANY,
}
LARGE_LISTS: Mapping[str, Callable[[Any], bool]] = {
    "ListInstances": lambda request: not 0 < request.page_size <= MANY,
    "ListEvents": lambda request: request.page_size > MANY or len(request.instance_ids) > MANY,
}


# Serialized bytes above which a request counts for `waiting_request_bytes`. A smaller request takes no more
# memory than the call that brings the request.
LARGE_REQUEST = 1024


class UnaryCalls:
    """The number of unary calls in flight. Belongs to the event loop."""

    def __init__(self) -> None:
        """Start at zero."""
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    async def wait_for_none(self) -> None:
        """Wait until every call is answered."""
        await self._none.wait()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()


class Service:
    """The methods of HostManagerService, shared by all servers of the daemon."""

    def __init__(self, context: RpcContext) -> None:
        """Build the RPC groups, and check that they cover the contract."""
        status, requests = StatusRpcs(context), RequestRpcs(context)
        runs = RunRpcs(context)
        watch, events, logs = WatchRpcs(context), EventRpcs(context), LogRpcs(context)
        usage = UsageRpcs(context)
        pull, orphans, holds = PullRpcs(context), OrphanRpcs(context), HoldRpcs(context)
        self._unary: dict[str, tuple[type[Message], Callable[[Any], Awaitable[Message | bytes]]]] = {
            "GetStatus": (pb.GetStatusRequest, status.get_status),
            "ListInstances": (pb.ListInstancesRequest, status.list_instances),
            "GetInstance": (pb.GetInstanceRequest, status.get_instance),
            "ListEvents": (pb.ListEventsRequest, events.list_events),
            "GetUsage": (pb.GetUsageRequest, usage.get_usage),
            "Explain": (pb.ExplainRequest, ExplainRpc(context).explain),
        }
        self._changes: dict[str, tuple[type[Message], Callable[[Any, Caller], Awaitable[Message]]]] = {
            "StartManager": (pb.StartManagerRequest, requests.start_manager),
            "StopManager": (pb.StopManagerRequest, requests.stop_manager),
            "Update": (pb.UpdateRequest, requests.update),
            "Restart": (pb.RestartRequest, requests.restart),
            "Signal": (pb.SignalRequest, requests.signal),
            "Hold": (pb.HoldRequest, holds.hold),
            "Release": (pb.ReleaseRequest, holds.release),
            "Upgrade": (pb.UpgradeRequest, requests.upgrade),
            "Die": (pb.DieRequest, requests.die),
        }
        self._streams: dict[
            str, tuple[type[Message], Callable[[Any, Caller], AsyncIterator[Message | bytes]]]
        ] = {
            "WatchStatus": (pb.WatchStatusRequest, watch.watch_status),
            "Run": (pb.RunRequest, runs.run),
            "TailLogs": (pb.TailLogsRequest, logs.tail_logs),
            "WatchUsage": (pb.WatchUsageRequest, usage.watch_usage),
            "WatchEvents": (pb.WatchEventsRequest, events.watch_events),
            "DockerPull": (pb.DockerPullRequest, pull.docker_pull),
            "RemoveOrphans": (pb.RemoveOrphansRequest, orphans.remove_orphans),
        }
        handled = {*self._unary, *self._changes, *self._streams}
        missing = {method.name for method in SERVICE.methods} ^ handled
        assert not missing, f"the contract and the handlers differ in {missing}"

    def handlers(self, admission: AdmissionControl, calls: UnaryCalls) -> grpc.GenericRpcHandler:
        """Return the method handlers for one server; `calls` counts its unary calls."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name, (request_type, answer) in self._unary.items():
            method = _UnaryMethod(name, request_type, _without_caller(answer), admission, calls)
            methods[name] = unary_handler(method.call, _serialize)
        for name, (request_type, change) in self._changes.items():
            method = _UnaryMethod(name, request_type, change, admission, calls)
            methods[name] = unary_handler(method.call, _serialize)
        for name, (request_type, follow) in self._streams.items():
            methods[name] = _stream(request_type, follow, admission)
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)


def _never(_: Any) -> bool:
    return False


def _without_caller(
    answer: Callable[[Any], Awaitable[Message | bytes]],
) -> Callable[[Any, Caller], Awaitable[Message | bytes]]:
    return lambda request, _: answer(request)


def _caller(context: ServicerContext, admission: AdmissionControl) -> Caller:
    peer = context.peer()
    return Caller(client_of(peer), admission, peer, tuple(context.invocation_metadata() or ()))


class _UnaryMethod:
    """One method with a single response, on one server."""

    def __init__(
        self,
        name: str,
        request_type: type[Message],
        answer: Callable[[Any, Caller], Awaitable[Message | bytes]],
        admission: AdmissionControl,
        calls: UnaryCalls,
    ) -> None:
        self._request_type = request_type
        self._answer = answer
        self._admission = admission
        self._calls = calls
        self._is_long = LONG_CALLS.get(name, _never)
        self._is_large_change = LARGE_CHANGES.get(name, _never)
        self._is_large_list = LARGE_LISTS.get(name, _never)
        self._may_be_large = name in LARGE_CHANGES or name in LARGE_LISTS

    async def call(self, _: object, context: ServicerContext) -> Message | bytes:
        """Handle one call."""
        caller = _caller(context, self._admission)
        try:
            if self._may_be_large:
                await self._admission.turn_to_start()
            # No variable holds the request: refused calls wait for the pacer.
            message, was_long = await self._answered(await read_data(context, caller), caller)
            if not was_long:
                return message
            async with self._admission.answer_pacer:  # many calls may have waited for the same work
                return message
        except Exception as error:  # the client gets a status for any error, also for a bug
            await abort(context, error, self._admission)
            raise  # not reached: abort raises

    async def _answered(self, data: bytes, caller: Caller) -> tuple[Message | bytes, bool]:
        """Return the answer, and whether the call is long."""
        admission, client = self._admission, caller.client
        counted = len(data) if len(data) > LARGE_REQUEST else 0
        with self._calls, admission.request_bytes.hold(client, counted):
            request = parse_request(self._request_type, data)
            del data
            if not self._is_long(request):
                return await self._in_turn(request, caller), False
            with admission.long_calls.hold(client):
                return await self._in_turn(request, caller), True

    async def _in_turn(self, request: Any, caller: Caller) -> Message | bytes:
        """Answer a large request when its turn comes, and others at once."""
        admission = self._admission
        if self._is_large_change(request):
            pacer = admission.large_change_pacer
        elif self._is_large_list(request):
            pacer = admission.large_list_pacer
        else:
            return await self._answer(request, caller)
        with admission.queued_calls.hold(caller.client):
            async with pacer:
                return await self._answer(request, caller)


def _stream(
    request_type: type[Message],
    answer: Callable[[Any, Caller], AsyncIterator[Message | bytes]],
    admission: AdmissionControl,
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(_: object, context: ServicerContext) -> AsyncIterator[Message | bytes]:
        caller = _caller(context, admission)
        try:
            with admission.streams.hold(caller.client):
                await admission.turn_to_start()
                async for message in answer(await read_request(context, request_type, caller), caller):
                    yield message
        except Exception as error:  # the client gets a status for any error, also for a bug
            await abort(context, error, admission)

    return stream_handler(call, _serialize)


def _serialize(message: Message | bytes) -> bytes:
    # Messages shared by many readers are serialized already.
    return message if isinstance(message, bytes) else message.SerializeToString()
