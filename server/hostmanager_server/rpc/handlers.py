"""gRPC method handlers: request parsing, and the status of failed calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from hostmanager_server.rpc.admission import AdmissionControl
from hostmanager_server.rpc.errors import RpcError, internal, invalid
from hostmanager_server.rpc.trailers import trailers

log = logging.getLogger(__name__)

REQUEST_PATIENCE = 30.0  # the longest wait for the request of a stream, s

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


async def read_request(context: ServicerContext, request_type: type[RequestT]) -> RequestT:
    """Read the only request of a stream of responses.

    Raises RpcError when the client sends no request in REQUEST_PATIENCE, or bytes that are no such message.
    """
    # gRPC writes into a pending read until the call ends: the timeout must not cancel the read.
    reading = asyncio.ensure_future(context.read())
    reading.add_done_callback(_ignore_failure)
    done, _ = await asyncio.wait({reading}, timeout=REQUEST_PATIENCE)
    if not done:
        raise invalid(f"cannot answer a call without a request; none came within {REQUEST_PATIENCE:g} s")
    data = reading.result()
    if data is grpc.aio.EOF:
        raise invalid("cannot answer a call without a request; send one message")
    return parse_request(request_type, data)


def _ignore_failure(reading: asyncio.Future[Any]) -> None:
    """Mark the exception as seen: a read that outlives the call fails, and asyncio would log the failure."""
    if not reading.cancelled():
        reading.exception()


async def abort(context: ServicerContext, error: Exception, admission: AdmissionControl) -> None:
    """End the call with the error's status.

    A bug of the daemon gets a generic text; the traceback goes to the log.
    """
    if not isinstance(error, RpcError):
        log.error("a call failed because of a bug in the daemon", exc_info=error)
        error = internal()
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Pacing refusals keeps clients that retry at once from starving the others. The traceback would keep
        # the request in memory meanwhile.
        error.__traceback__ = None
        async with admission.answer_pacer:
            pass
    sent = trailers(error)
    await context.abort(error.code, sent.message, sent.metadata)
