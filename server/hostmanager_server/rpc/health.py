"""The standard gRPC health service, with watches that count as streams and end with the daemon."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2

from hostmanager_server.rpc.admission import AdmissionControl
from hostmanager_server.rpc.caller import Caller, client_of
from hostmanager_server.rpc.errors import unknown_service
from hostmanager_server.rpc.handlers import (
    ServicerContext,
    abort,
    read_request,
    stream_handler,
    unary_handler,
)
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.validation import check_token


class Health:
    """The health of each gRPC service, shared by all servers of the daemon."""

    def __init__(self, hub: Hub) -> None:
        """Create a health service whose watches end when the hub closes."""
        self._hub = hub
        self._servicer = health.aio.HealthServicer()
        self._known = {""}

    async def set(self, name: str, *, serving: bool) -> None:
        """Set the health of a gRPC service; the empty name stands for the whole server."""
        response = health_pb2.HealthCheckResponse
        self._known.add(name)
        await self._servicer.set(name, response.SERVING if serving else response.NOT_SERVING)

    def handlers(self, admission: AdmissionControl) -> grpc.GenericRpcHandler:
        """Return the method handlers for one server."""

        async def check(_: object, context: ServicerContext) -> health_pb2.HealthCheckResponse:
            caller = Caller(client_of(context.peer()), admission)
            try:
                request = await read_request(context, health_pb2.HealthCheckRequest, caller)
                check_token(request.service, "service")
                if request.service not in self._known:
                    raise unknown_service(request.service, sorted(self._known - {""}))
            except Exception as error:  # the client gets a status for any error, also for a bug
                await abort(context, error, admission)
                raise  # not reached: abort raises
            response: health_pb2.HealthCheckResponse = await self._servicer.Check(request, context)
            return response

        async def watch(_: object, context: ServicerContext) -> None:
            caller = Caller(client_of(context.peer()), admission)
            try:
                with admission.streams.hold(caller.client):
                    await admission.turn_to_start()
                    request = await read_request(context, health_pb2.HealthCheckRequest, caller)
                    check_token(request.service, "service")
                    await self._hub.unless_closed(self._servicer.Watch(request, context))
            except Exception as error:  # the client gets a status for any error, also for a bug
                await abort(context, error, admission)

        serialize = health_pb2.HealthCheckResponse.SerializeToString
        methods = {
            "Check": unary_handler(check, serialize),
            "Watch": stream_handler(watch, serialize),
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)
