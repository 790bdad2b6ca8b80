"""The methods of HostManagerService: which function answers which, and what all of them have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc.caller import Caller, client_of
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.events import EventRpcs
from hostmanager_server.rpc.limits import Quotas, Turns
from hostmanager_server.rpc.logs import LogRpcs
from hostmanager_server.rpc.orphans import OrphanRpcs
from hostmanager_server.rpc.pull import PullRpcs
from hostmanager_server.rpc.requests import RequestRpcs
from hostmanager_server.rpc.status import StatusRpcs
from hostmanager_server.rpc.streams import ServicerContext, abort, parse_request, read_request, stream_handler
from hostmanager_server.rpc.watch import WatchRpcs

SERVICE = pb.DESCRIPTOR.services_by_name["HostManagerService"]


# Answered once something else has ended: a reading of files, a start of the installed code, everything down.
LONG_CALLS: Mapping[str, Callable[[Any], bool]] = {
    "Update": lambda request: bool(request.reload_config),
    "StartManager": lambda _: True,
    "StopManager": lambda _: True,
    "Upgrade": lambda _: True,
    "Die": lambda _: True,
}


# So many entries, or entries of an answer, take the event loop a millisecond or more.
MANY = 100
# Carried out one at a time for each server: those that change something, and those that list.
LARGE_CHANGES: Mapping[str, Callable[[Any], bool]] = {
    "Update": lambda request: len(request.requests) > MANY,
    "StartManager": lambda request: len(request.requests) > MANY,
    "Restart": lambda request: len(request.instance_ids) > MANY,
}
LARGE_LISTS: Mapping[str, Callable[[Any], bool]] = {
    "ListInstances": lambda request: not 0 < request.page_size <= MANY,
    "ListEvents": lambda request: request.page_size > MANY or len(request.instance_ids) > MANY,
}


class UnaryCalls:
    """Counts the unary calls that are being answered. Belongs to the event loop."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    async def wait_for_none(self) -> None:
        """Wait until every one is answered."""
        await self._none.wait()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()


class Service:
    """What answers the methods of HostManagerService; one for all servers of the daemon."""

    def __init__(self, context: RpcContext) -> None:
        status, requests = StatusRpcs(context), RequestRpcs(context)
        watch, events, logs = WatchRpcs(context), EventRpcs(context), LogRpcs(context)
        pull, orphans = PullRpcs(context), OrphanRpcs(context)
        self._unary: dict[str, tuple[type[Message], Callable[[Any], Awaitable[Message]]]] = {
            "StartManager": (pb.StartManagerRequest, requests.start_manager),
            "StopManager": (pb.StopManagerRequest, requests.stop_manager),
            "GetStatus": (pb.GetStatusRequest, status.get_status),
            "ListInstances": (pb.ListInstancesRequest, status.list_instances),
            "GetInstance": (pb.GetInstanceRequest, status.get_instance),
            "Update": (pb.UpdateRequest, requests.update),
            "Restart": (pb.RestartRequest, requests.restart),
            "ListEvents": (pb.ListEventsRequest, events.list_events),
            "Upgrade": (pb.UpgradeRequest, requests.upgrade),
            "Die": (pb.DieRequest, requests.die),
        }
        self._streams: dict[
            str, tuple[type[Message], Callable[[Any, Caller], AsyncIterator[Message | bytes]]]
        ] = {
            "WatchStatus": (pb.WatchStatusRequest, watch.watch_status),
            "TailLogs": (pb.TailLogsRequest, logs.tail_logs),
            "WatchEvents": (pb.WatchEventsRequest, events.watch_events),
            "DockerPull": (pb.DockerPullRequest, pull.docker_pull),
            "RemoveOrphans": (pb.RemoveOrphansRequest, orphans.remove_orphans),
        }
        missing = {method.name for method in SERVICE.methods} ^ {*self._unary, *self._streams}
        assert not missing, f"the contract and the handlers differ in {missing}"

    def handlers(self, quotas: Quotas, calls: UnaryCalls) -> grpc.GenericRpcHandler:
        """The handlers of one server, whose clients share `quotas`; unary calls are counted in `calls`."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name, (request_type, answer) in self._unary.items():
            paced = _one_at_a_time(answer, LARGE_CHANGES.get(name, _never), quotas.large_changes)
            paced = _one_at_a_time(paced, LARGE_LISTS.get(name, _never), quotas.large_lists)
            methods[name] = _unary(request_type, paced, LONG_CALLS.get(name, _never), quotas, calls)
        for name, (request_type, follow) in self._streams.items():
            methods[name] = _stream(request_type, follow, quotas)
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)


def _never(_: Any) -> bool:
    return False


def _one_at_a_time(
    answer: Callable[[Any], Awaitable[Message]], is_large: Callable[[Any], bool], turns: Turns
) -> Callable[[Any], Awaitable[Message]]:
    """The same answer, in turn when the request is large."""

    async def paced(request: Any) -> Message:
        if not is_large(request):
            return await answer(request)
        async with turns:
            return await answer(request)

    return paced


def _unary(
    request_type: type[Message],
    answer: Callable[[Any], Awaitable[Message]],
    is_long: Callable[[Any], bool],
    quotas: Quotas,
    calls: UnaryCalls,
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(data: bytes, context: ServicerContext) -> Message:
        with calls:
            try:
                request = parse_request(request_type, data)
                if not is_long(request):
                    return await answer(request)
                with quotas.long_calls.hold(client_of(context.peer())):
                    answered = await answer(request)
                async with quotas.answers:  # many may have waited for the same
                    return answered
            except Exception as error:
                await abort(context, error, quotas)
                raise  # not reached: abort raises

    return grpc.unary_unary_rpc_method_handler(call, response_serializer=_serialize)


def _stream(
    request_type: type[Message],
    answer: Callable[[Any, Caller], AsyncIterator[Message | bytes]],
    quotas: Quotas,
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(_: object, context: ServicerContext) -> AsyncIterator[Message | bytes]:
        caller = Caller(client_of(context.peer()), quotas)
        try:
            with quotas.streams.hold(caller.client):
                async for message in answer(await read_request(context, request_type), caller):
                    yield message
        except Exception as error:
            await abort(context, error, quotas)

    return stream_handler(call, _serialize)


def _serialize(message: Message | bytes) -> bytes:
    # What many readers get alike comes serialized already.
    return message if isinstance(message, bytes) else message.SerializeToString()
