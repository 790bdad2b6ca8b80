"""The standard health service; its watches count as streams, and end with the daemon."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2

from hostmanager_server.rpc.caller import check_token, client_of
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.limits import Quotas
from hostmanager_server.rpc.streams import ServicerContext, abort, parse_request, read_request, stream_handler


class Health:
    """What is told of each service; one for all servers of the daemon."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._servicer = health.aio.HealthServicer()

    async def set(self, name: str, *, serving: bool) -> None:
        """Say whether the service of this name serves."""
        answer = health_pb2.HealthCheckResponse
        await self._servicer.set(name, answer.SERVING if serving else answer.NOT_SERVING)

    def handlers(self, quotas: Quotas) -> grpc.GenericRpcHandler:
        """The handlers of one server, whose clients share `quotas`."""

        async def check(data: bytes, context: ServicerContext) -> health_pb2.HealthCheckResponse:
            try:
                request = parse_request(health_pb2.HealthCheckRequest, data)
            except Exception as error:
                await abort(context, error, quotas)
                raise  # not reached: abort raises
            answer: health_pb2.HealthCheckResponse = await self._servicer.Check(request, context)
            return answer

        async def watch(_: object, context: ServicerContext) -> None:
            try:
                with quotas.streams.hold(client_of(context.peer())):
                    request = await read_request(context, health_pb2.HealthCheckRequest)
                    check_token(request.service, "service")
                    await self._hub.unless_closed(self._servicer.Watch(request, context))
            except Exception as error:
                await abort(context, error, quotas)

        serialize = health_pb2.HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=serialize),
            "Watch": stream_handler(watch, serialize),
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)
