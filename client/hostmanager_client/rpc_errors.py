"""The one table from gRPC status codes to the errors of this client."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from hostmanager_client.address import Address
from hostmanager_client.errors import (
    Aborted,
    DeadlineExceeded,
    HostManagerError,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    ServerBug,
    Unreachable,
    Unsupported,
    Violation,
)

DETAILS_KEY = "grpc-status-details-bin"

_ERRORS: dict[grpc.StatusCode, type[HostManagerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: PreconditionFailed,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionFailed,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    # A call that somebody else than this client ended: the daemon, or something on the way, closed it.
    grpc.StatusCode.CANCELLED: Unreachable,
    grpc.StatusCode.INTERNAL: ServerBug,
    grpc.StatusCode.DATA_LOSS: ServerBug,
    grpc.StatusCode.UNKNOWN: ServerBug,
}


@dataclass(frozen=True, slots=True)
class _Details:
    """The google.rpc details of a status."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()


def error_from_rpc(rpc_error: grpc.RpcError, what: str, address: Address) -> HostManagerError:
    """The error to raise from `rpc_error`. `what` could not be done: "update targets"."""
    # What a call raises is a Call as well, which gRPC's annotations do not say.
    call: Any = rpc_error
    if not hasattr(call, "trailing_metadata"):
        return make_error(grpc.StatusCode.UNKNOWN, str(rpc_error), (), what, address)
    return make_error(call.code(), call.details() or "", call.trailing_metadata() or (), what, address)


def make_error(
    code: grpc.StatusCode,
    text: str,
    metadata: Iterable[tuple[str, str | bytes]],
    what: str,
    address: Address,
) -> HostManagerError:
    """The error for a status, its text, and the trailing metadata that came with it."""
    details = _details(metadata)
    kind = _ERRORS.get(code, ServerBug)
    lost = re.search(r"stream removed|socket closed|rst_stream", text, re.IGNORECASE)
    if kind is ServerBug and lost and not details.reason:
        kind = Unreachable  # not the daemon's words (those carry an ErrorInfo): the connection broke
    text = text or code.name.lower().replace("_", " ")
    # Much of what the daemon says is a whole sentence already.
    message = text if text.startswith("cannot ") and details.reason else f"cannot {what}: {text}"
    if not details.reason and kind is Unreachable:
        kind, why = _why_unreachable(address, text)
        message = f"cannot reach the daemon at {address}: {why}"
    elif kind is DeadlineExceeded:
        message = (
            f"cannot {what}: the daemon at {address} did not answer in time; "
            "whether it was carried out is not known. Look, or allow more time with a longer timeout"
        )
    elif kind is Unsupported:
        message = (
            f"cannot {what}: the daemon at {address} does not know this call; it is older than this client"
        )
    elif kind is ServerBug:
        message += ". This is a bug of the daemon; its log tells more"
    return kind(
        message,
        reason=details.reason,
        metadata=details.metadata,
        violations=details.violations,
        address=str(address),
    )


def _details(metadata: Iterable[tuple[str, str | bytes]]) -> _Details:
    packed = next((value for key, value in metadata if key == DETAILS_KEY), None)
    if not isinstance(packed, bytes):
        return _Details()
    # Imported here: a call that succeeds needs none of it, and it takes some milliseconds.
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    reason, info_metadata, violations = "", {}, []
    try:
        status = status_pb2.Status.FromString(packed)
        for detail in status.details:
            info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                reason, info_metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad_request):
                violations += [Violation(v.field, v.description) for v in bad_request.field_violations]
    except DecodeError:
        return _Details()  # details that cannot be read add nothing to the status itself
    return _Details(reason, info_metadata, tuple(violations))


def _why_unreachable(address: Address, text: str) -> tuple[type[HostManagerError], str]:
    """gRPC's text about a connection that failed, said plainly."""
    start = (
        "Is it running? Start it with `hostmanager serve SITE.yaml`, or say where it is with --address "
        "or HOSTMANAGER_ADDRESS"
    )
    if address.is_unix:
        try:
            os.stat(address.path)
        except FileNotFoundError:
            return Unreachable, f"no such socket. {start}"
        except NotADirectoryError:
            return Unreachable, f"no such socket, as a part of its path is no directory. {start}"
        except PermissionError:
            return PermissionDenied, _not_allowed("its directory is closed to you")
        except OSError as error:
            return Unreachable, f"{error.strerror}. {start}"
    if "Permission denied" in text:
        return PermissionDenied, _not_allowed("the socket is not yours")
    if "refused" in text:
        left = "a socket is there but nothing listens on it" if address.is_unix else "connection refused"
        return Unreachable, f"{left}. {start}"
    if address.host and re.search(r"DNS|resolution|resolve", text):
        return Unreachable, f"the host name {address.host!r} cannot be resolved. Check the address"
    if re.search(r"Socket closed|GOAWAY|reset|[Ss]tream removed|shut ?down|CANCELLED|EOF", text):
        return Unreachable, "it closed the connection. It may have been stopped; try again"
    last = text.rsplit("last error: ", 1)[-1] or "no answer"
    return Unreachable, f"{last}. {start}"


def _not_allowed(why: str) -> str:
    return f"permission denied, {why}. Run as the user that runs the daemon"
