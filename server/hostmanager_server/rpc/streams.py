"""What the streams of all gRPC services of the daemon have in common: their requests, and how they fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from hostmanager_server.rpc.errors import RpcError, internal, invalid
from hostmanager_server.rpc.limits import Quotas
from hostmanager_server.rpc.trailers import trailers

log = logging.getLogger(__name__)

ServicerContext = grpc.aio.ServicerContext[Any, Any]
RequestT = TypeVar("RequestT", bound=Message)


def stream_handler(
    call: Callable[..., Any], serialize: Callable[[Any], bytes]
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that reads its requests itself, and so decides how long each of them lives.

    gRPC holds the request of a stream of responses, serialized and not, as long as the stream; on the wire
    both kinds of method are the same.
    """
    return grpc.stream_stream_rpc_method_handler(call, response_serializer=serialize)


def parse_request(request_type: type[RequestT], data: bytes) -> RequestT:
    """Parse a request. Raises RpcError when the bytes are no such message.

    Handlers parse requests themselves: a failure in gRPC's deserializer reaches the client as UNKNOWN, and
    the log as a traceback.
    """
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        name = request_type.DESCRIPTOR.full_name
        raise invalid(f"cannot read the request: it is no valid {name} message") from error


async def read_request(context: ServicerContext, request_type: type[RequestT]) -> RequestT:
    """Read the one request of a stream of responses. Raises RpcError when the client sends none, or no such
    message."""
    data = await context.read()
    if data is grpc.aio.EOF:
        raise invalid("cannot answer a call without a request; send one message")
    return parse_request(request_type, data)


async def abort(context: ServicerContext, error: Exception, quotas: Quotas) -> None:
    """End the call with the error's status; a bug gets a generic text, its traceback goes to the log."""
    if not isinstance(error, RpcError):
        log.error("a call failed by a bug of the daemon", exc_info=error)
        error = internal()
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # A client that asks again at once is answered one by one, so that others are, too. What it asked for
        # need not wait with it, as it would in the frames of the traceback.
        error.__traceback__ = None
        async with quotas.answers:
            pass
    sent = trailers(error)
    await context.abort(error.code, sent.message, sent.metadata)
