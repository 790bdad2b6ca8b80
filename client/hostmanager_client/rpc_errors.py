"""Conversion of gRPC statuses to the errors of this client."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.values import dataclass, field

from hostmanager_client.address import Address
from hostmanager_client.connection_errors import ConnectionFailure, connection_failure
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import grpc

DETAILS_KEY = "grpc-status-details-bin"
_UNKNOWN_OUTCOME = "The daemon may have carried it out: check"

_ERRORS: dict[str, type[HostManagerError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": PreconditionFailed,
    "FAILED_PRECONDITION": PreconditionFailed,
    "ABORTED": Aborted,
    "RESOURCE_EXHAUSTED": LimitExceeded,
    "PERMISSION_DENIED": PermissionDenied,
    "UNAUTHENTICATED": PermissionDenied,
    "UNIMPLEMENTED": Unsupported,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNAVAILABLE": Unreachable,
    # The daemon or a proxy cancelled the call.
    "CANCELLED": Unreachable,
    "INTERNAL": ServerBug,
    "DATA_LOSS": ServerBug,
    "UNKNOWN": ServerBug,
}
# The numbers of the statuses on the wire.
CODE_NAMES = dict(
    enumerate((
        "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
        "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
        "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
    ))
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Details:
    """The google.rpc details of a status."""

    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()


def error_from_rpc(
    rpc_error: grpc.RpcError, what: str, address: Address, *, changes: bool = False
) -> HostManagerError:
    """Return the error to raise from `rpc_error`.

    `what` names the failed action, as in "update targets". `changes`: the action changes something.
    """
    # The raised error is also a grpc.Call; the annotations of gRPC omit that.
    call: Any = rpc_error
    if not hasattr(call, "trailing_metadata"):
        return make_error("UNKNOWN", str(rpc_error), (), what, address, changes=changes)
    metadata = call.trailing_metadata() or ()
    return make_error(call.code().name, call.details() or "", metadata, what, address, changes=changes)


def make_error(
    code: str,
    text: str,
    metadata: Iterable[tuple[str, str | bytes]],
    what: str,
    address: Address,
    *,
    changes: bool = False,
) -> HostManagerError:
    """Return the error for the name of a status, its text and its trailing metadata."""
    details = _details(metadata)
    # A status with an ErrorInfo comes from the daemon; other statuses may describe the connection.
    failure = None if details.reason else connection_failure(code, text, address)
    if failure is not None:
        return _from_failure(failure, what, address, changes=changes)
    kind = _ERRORS.get(code, ServerBug)
    text = text or code.lower().replace("_", " ")
    # Many texts of the daemon are whole sentences.
    message = text if text.startswith("cannot ") and details.reason else f"cannot {what}: {text}"
    if kind is DeadlineExceeded:
        message = (
            f"cannot {what}: the daemon at {address} did not answer in time. "
            f"{_UNKNOWN_OUTCOME if changes else 'Try again'}, or allow more time with a longer timeout"
        )
    elif kind is Unsupported:
        message = (
            f"cannot {what}: the daemon at {address} does not know this call; it is older than this client"
        )
    elif kind is ServerBug:
        message += ". This is a bug of the daemon; its log has the details"
    return kind(
        message,
        reason=details.reason,
        metadata=details.metadata,
        violations=details.violations,
        address=str(address),
    )


def _from_failure(
    failure: ConnectionFailure, what: str, address: Address, *, changes: bool
) -> HostManagerError:
    message = f"cannot reach the daemon at {address}: {failure.why}"
    if failure.kind is LimitExceeded:  # the daemon refused the request unread
        message = f"cannot {what}: the daemon at {address} refused the request: {failure.why}"
    elif failure.kind is ServerBug or (failure.sent and changes):
        message = f"cannot {what}: no answer from the daemon at {address}: {failure.why}"
    if failure.sent and changes:
        message += f". {_UNKNOWN_OUTCOME} before you try again"
    if failure.kind is not Unreachable:
        return failure.kind(message, address=str(address))
    return Unreachable(message, address=str(address), patience=failure.patience, sent=failure.sent)


def _details(metadata: Iterable[tuple[str, str | bytes]]) -> _Details:
    packed = next((value for key, value in metadata if key == DETAILS_KEY), None)
    if not isinstance(packed, bytes):
        return _Details()
    from hostmanager_client.light.protobuf_codec import MalformedError, decode

    reason, info_metadata, violations = "", {}, []
    try:
        status = decode("google.rpc.Status", packed)
        for detail in status.details:
            name = detail.type_url.rpartition("/")[2]
            if name == "google.rpc.ErrorInfo":
                info = decode(name, detail.value)
                reason, info_metadata = info.reason, dict(info.metadata)
            elif name == "google.rpc.BadRequest":
                bad_request = decode(name, detail.value)
                violations += [Violation(v.field, v.description) for v in bad_request.field_violations]
    except MalformedError:
        return _Details()  # unreadable details add nothing to the status
    return _Details(reason, info_metadata, tuple(violations))
