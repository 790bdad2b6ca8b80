"""Server reflection: for everyone on the unix socket, over TCP only when that is switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2

from hostmanager_server.rpc import service
from hostmanager_server.rpc.caller import client_of
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.limits import Quotas
from hostmanager_server.rpc.streams import ServicerContext, abort, parse_request, stream_handler

# The two versions of the protocol differ in nothing but the package's name; new clients ask for v1 first.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_Responses = AsyncIterator[reflection_pb2.ServerReflectionResponse]


def handlers(hub: Hub, quotas: Quotas, *, tcp: bool) -> list[grpc.GenericRpcHandler]:
    """What answers reflection requests on one server, whose clients share `quotas`; those that come over TCP
    only with `tcp`."""
    servicer = reflection.aio.ReflectionServicer((service.SERVICE.full_name, health.SERVICE_NAME, *SERVICES))

    async def call(requests: AsyncIterator[bytes], context: ServicerContext) -> _Responses:
        if not tcp and not context.peer().startswith("unix:"):
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                "server reflection is off over TCP; start the daemon with --reflection, or use the socket",
            )
        try:
            with quotas.streams.hold(client_of(context.peer())):
                answers = cast("_Responses", servicer.ServerReflectionInfo(_read(requests), context))
                async for response in hub.until_closed(answers):
                    async with quotas.messages:  # a stream may ask without end
                        pass
                    yield response
        except Exception as error:
            await abort(context, error, quotas)

    method = stream_handler(call, reflection_pb2.ServerReflectionResponse.SerializeToString)
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in SERVICES]


async def _read(requests: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for data in requests:
        yield parse_request(reflection_pb2.ServerReflectionRequest, data)
