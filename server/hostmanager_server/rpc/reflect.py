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

_Responses = AsyncIterator[reflection_pb2.ServerReflectionResponse]


def handlers(*, tcp: bool) -> list[grpc.GenericRpcHandler]:
    """What answers reflection requests; those that come over TCP only with `tcp`."""
    servicer = reflection.aio.ReflectionServicer((service.SERVICE.full_name, health.SERVICE_NAME, *SERVICES))

    async def call(requests: AsyncIterator[bytes], context: service.ServicerContext) -> _Responses:
        if not tcp and not context.peer().startswith("unix:"):
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "server reflection is off over TCP; start the daemon with --reflection, or use the socket",
            )
        answers = servicer.ServerReflectionInfo(_read(requests), context)
        try:
            async for response in cast("_Responses", answers):
                yield response
        except Exception as error:
            await service.abort(context, error)

    method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        call, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
    )
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in SERVICES]


async def _read(requests: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for data in requests:
        yield service.read_request(reflection_pb2.ServerReflectionRequest, data)
