"""gRPC server reflection: always on the unix socket, over TCP only when enabled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health

from hostmanager_server.rpc import service
from hostmanager_server.rpc.admission import AdmissionControl
from hostmanager_server.rpc.caller import Caller, client_of
from hostmanager_server.rpc.errors import reflection_off
from hostmanager_server.rpc.handlers import (
    ServicerContext,
    abort,
    parse_request,
    read_data,
    stream_handler,
)
from hostmanager_server.rpc.hub import Hub

if TYPE_CHECKING:
    from grpc_reflection.v1alpha import reflection_pb2

# The two versions of the protocol differ only in the package name; new clients try v1 first.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def handlers(hub: Hub, admission: AdmissionControl, *, tcp: bool) -> list[grpc.GenericRpcHandler]:
    """Return the method handlers for one server; `tcp` enables reflection for TCP clients."""
    servicers: list[
        Any
    ] = []  # one, from the first call on: most daemons never get one, and the import takes time

    async def call(
        name: str, requests: AsyncIterator[bytes], context: ServicerContext
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        caller = Caller(client_of(context.peer()), admission)
        try:
            # Read before any refusal: a client of gRPC that still sends its request when the call ends may
            # report INTERNAL instead of the status (grpcio 1.85).
            await admission.turn_to_start()
            first = await read_data(context, caller)
            if not tcp and not context.peer().startswith("unix:"):
                raise reflection_off()
            with admission.streams.hold(caller.client):
                servicers[:] = servicers or [_make_servicer()]
                parsed = _parse(name, first, requests)
                responses = servicers[0].ServerReflectionInfo(parsed, context)
                async for response in hub.until_closed(responses):
                    async with admission.message_pacer:  # a stream may send requests without end
                        pass
                    yield response
        except Exception as error:  # the client gets a status for any error, also for a bug
            await abort(context, error, admission)

    def serialize(response: reflection_pb2.ServerReflectionResponse) -> bytes:
        return response.SerializeToString()

    return [
        grpc.method_handlers_generic_handler(
            name, {"ServerReflectionInfo": stream_handler(partial(call, name), serialize)}
        )
        for name in SERVICES
    ]


def _make_servicer() -> Any:
    from grpc_reflection.v1alpha import reflection

    return reflection.aio.ReflectionServicer((service.SERVICE.full_name, health.SERVICE_NAME, *SERVICES))


async def _parse(
    service_name: str, first: bytes, others: AsyncIterator[bytes]
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    from grpc_reflection.v1alpha import reflection_pb2

    message = f"{service_name}Request"
    yield parse_request(reflection_pb2.ServerReflectionRequest, first, message)
    async for data in others:
        yield parse_request(reflection_pb2.ServerReflectionRequest, data, message)
