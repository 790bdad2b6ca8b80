"""gRPC method handlers: request parsing, and the status of failed calls."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from hostmanager_server.rpc.admission import BYTE_PAUSE, AdmissionControl
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.errors import RpcError, internal, invalid
from hostmanager_server.rpc.trailers import trailers

log = logging.getLogger(__name__)

# Refused calls that wait for the pacer. Each takes some 20 kB; more are refused at once.
PACED_REFUSALS = 1024

ServicerContext = grpc.aio.ServicerContext[Any, Any]
RequestT = TypeVar("RequestT", bound=Message)


def stream_handler(
    call: Callable[..., Any], serialize: Callable[[Any], bytes]
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler for a stream of responses that reads its request itself.

    gRPC holds the request of a unary-stream method, serialized and parsed, as long as the stream lives. A
    stream-stream method is the same on the wire, and lets the handler drop the request early.
    """
    return grpc.stream_stream_rpc_method_handler(call, response_serializer=serialize)


def parse_request(request_type: type[RequestT], data: bytes, name: str = "") -> RequestT:
    """Parse a request. Raises RpcError when the bytes are not a valid message of this type.

    `name` replaces the name of the type in the text of the error.

    Handlers parse requests themselves: a failure in gRPC's deserializer reaches the client as UNKNOWN, and
    the log as a traceback.
    """
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        name = name or request_type.DESCRIPTOR.full_name
        raise invalid(f"cannot read the request: it is no valid {name} message") from error


def unary_handler(
    call: Callable[..., Any], serialize: Callable[[Any], bytes]
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler for a single response that reads its request itself.

    gRPC holds the request of a unary-unary method until the answer, and waits for the request without a time
    limit. A stream-unary method is the same on the wire.
    """
    return grpc.stream_unary_rpc_method_handler(call, response_serializer=serialize)


async def read_request(context: ServicerContext, request_type: type[RequestT], caller: Caller) -> RequestT:
    """Read and parse the only request of a call; see PendingRequests.read.

    Raises RpcError also when the bytes are no such message.
    """
    return parse_request(request_type, await read_data(context, caller))


async def read_data(context: ServicerContext, caller: Caller) -> bytes:
    """Read the first request of a call; see PendingRequests.read."""
    admission = caller.admission
    data: bytes = await admission.pending_requests.read(caller.client, context.read())
    admission.start_pacer.add_pause(len(data) * BYTE_PAUSE)
    return data


async def abort(context: ServicerContext, error: Exception, admission: AdmissionControl) -> None:
    """End the call with the error's status.

    A bug of the daemon gets a generic text; the traceback goes to the log.
    """
    if not isinstance(error, RpcError):
        log.error("a call failed because of a bug in the daemon", exc_info=error)
        error = internal()
    # The traceback keeps the request, megabytes for a thousand long ids: while the refusal waits, and in
    # cycles of frames and futures until the next full garbage collection.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and admission.answer_pacer.waiting < PACED_REFUSALS:
        # Pacing refusals keeps clients that retry at once from starving the others.
        async with admission.answer_pacer:
            pass
    sent = trailers(error)
    await context.abort(error.code, sent.message, sent.metadata)
