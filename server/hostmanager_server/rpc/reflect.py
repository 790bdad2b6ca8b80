"""Server reflection: for everyone on the unix socket, over TCP only when that is switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2

from hostmanager_server.rpc import service

# The two versions of the protocol differ in nothing but the package's name; new clients ask for v1 first.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_Requests = AsyncIterator[reflection_pb2.ServerReflectionRequest]
_Responses = AsyncIterator[reflection_pb2.ServerReflectionResponse]


def handlers(*, tcp: bool) -> list[grpc.GenericRpcHandler]:
    """What answers reflection requests; those that come over TCP only with `tcp`."""
    servicer = reflection.aio.ReflectionServicer((service.SERVICE.full_name, health.SERVICE_NAME, *SERVICES))

    async def call(requests: _Requests, context: grpc.aio.ServicerContext[Any, Any]) -> _Responses:
        if not tcp and not context.peer().startswith("unix:"):
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "server reflection is off over TCP; start the daemon with --reflection, or use the socket",
            )
        async for response in cast("_Responses", servicer.ServerReflectionInfo(requests, context)):
            yield response

    method = grpc.stream_stream_rpc_method_handler(
        call,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in SERVICES]
