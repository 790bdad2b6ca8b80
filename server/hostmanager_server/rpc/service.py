"""The methods of HostManagerService: which function answers which, and what all of them have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.rpc.context import Context
from hostmanager_server.rpc.errors import RpcError, internal, invalid
from hostmanager_server.rpc.events import EventRpcs
from hostmanager_server.rpc.logs import LogRpcs
from hostmanager_server.rpc.orphans import OrphanRpcs
from hostmanager_server.rpc.pull import PullRpcs
from hostmanager_server.rpc.requests import RequestRpcs
from hostmanager_server.rpc.status import StatusRpcs
from hostmanager_server.rpc.trailers import trailers
from hostmanager_server.rpc.watch import WatchRpcs

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["HostManagerService"]

Request = TypeVar("Request", bound=Message)
ServicerContext = grpc.aio.ServicerContext[Any, Any]


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


def handlers(context: Context, calls: UnaryCalls) -> grpc.GenericRpcHandler:
    """Everything that HostManagerService answers; its unary calls are counted in `calls`."""

    def unary(
        request_type: type[Request], answer: Callable[[Request], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        return _unary(request_type, answer, calls)

    status, requests = StatusRpcs(context), RequestRpcs(context)
    watch, events, logs = WatchRpcs(context), EventRpcs(context), LogRpcs(context)
    pull, orphans = PullRpcs(context), OrphanRpcs(context)
    methods = {
        "StartManager": unary(pb.StartManagerRequest, requests.start_manager),
        "StopManager": unary(pb.StopManagerRequest, requests.stop_manager),
        "GetStatus": unary(pb.GetStatusRequest, status.get_status),
        "ListInstances": unary(pb.ListInstancesRequest, status.list_instances),
        "GetInstance": unary(pb.GetInstanceRequest, status.get_instance),
        "WatchStatus": _stream(pb.WatchStatusRequest, watch.watch_status),
        "Update": unary(pb.UpdateRequest, requests.update),
        "Restart": unary(pb.RestartRequest, requests.restart),
        "TailLogs": _stream(pb.TailLogsRequest, logs.tail_logs),
        "ListEvents": unary(pb.ListEventsRequest, events.list_events),
        "WatchEvents": _stream(pb.WatchEventsRequest, events.watch_events),
        "Upgrade": unary(pb.UpgradeRequest, requests.upgrade),
        "Die": unary(pb.DieRequest, requests.die),
        "DockerPull": _stream(pb.DockerPullRequest, pull.docker_pull),
        "RemoveOrphans": _stream(pb.RemoveOrphansRequest, orphans.remove_orphans),
    }
    missing = {method.name for method in SERVICE.methods} ^ set(methods)
    assert not missing, f"the contract and the handlers differ in {missing}"
    return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)


def _unary(
    request_type: type[Request], answer: Callable[[Request], Awaitable[Message]], calls: UnaryCalls
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(data: bytes, context: ServicerContext) -> Message:
        with calls:
            try:
                return await answer(read_request(request_type, data))
            except Exception as error:
                await abort(context, error)
                raise  # not reached: abort raises

    return grpc.unary_unary_rpc_method_handler(call, response_serializer=_serialize)


def _stream(
    request_type: type[Request], answer: Callable[[Request, str], AsyncIterator[Message | bytes]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(data: bytes, context: ServicerContext) -> AsyncIterator[Message | bytes]:
        try:
            async for message in answer(read_request(request_type, data), context.peer()):
                yield message
        except Exception as error:
            await abort(context, error)

    return grpc.unary_stream_rpc_method_handler(call, response_serializer=_serialize)


def read_request(request_type: type[Request], data: bytes) -> Request:
    """Read a request. Raises RpcError when the bytes are no such message.

    Handlers read requests themselves: a failure in gRPC's deserializer reaches the client as UNKNOWN, and the
    log as a traceback.
    """
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        raise invalid(f"cannot read the request: it is no valid {name} message") from error


def _serialize(message: Message | bytes) -> bytes:
    # What many readers get alike comes serialized already.
    return message if isinstance(message, bytes) else message.SerializeToString()


async def abort(context: ServicerContext, error: Exception) -> None:
    """End the call with the error's status; a bug gets a generic text, its traceback goes to the log."""
    if not isinstance(error, RpcError):
        log.error("a call failed by a bug of the daemon", exc_info=error)
        error = internal()
    sent = trailers(error)
    await context.abort(error.code, sent.message, sent.metadata)
