"""The standard health service, which tells malformed requests as all other calls do."""

from __future__ import annotations

from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2

from hostmanager_server.rpc.service import ServicerContext, abort, read_request


def handlers(servicer: health.aio.HealthServicer) -> grpc.GenericRpcHandler:
    """Return the handlers of the health service."""

    async def check(data: bytes, context: ServicerContext) -> health_pb2.HealthCheckResponse:
        request = await _read(data, context)
        return await servicer.Check(request, context)

    async def watch(data: bytes, context: ServicerContext) -> None:
        request = await _read(data, context)
        await servicer.Watch(request, context)  # writes its answers to the context

    serialize = health_pb2.HealthCheckResponse.SerializeToString
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=serialize),
        "Watch": grpc.unary_stream_rpc_method_handler(cast("Any", watch), response_serializer=serialize),
    }
    return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)


async def _read(data: bytes, context: ServicerContext) -> health_pb2.HealthCheckRequest:
    try:
        return read_request(health_pb2.HealthCheckRequest, data)
    except Exception as error:
        await abort(context, error)
        raise  # not reached: abort raises
