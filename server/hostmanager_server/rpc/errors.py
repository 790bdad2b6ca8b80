"""The one table of what an error becomes on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from hostmanager_server.supervisor import (
    ConfigError,
    EndingError,
    InvalidRequestError,
    NotDurableError,
    ReplacingError,
    RequestError,
    StaleEpochError,
    UpgradeError,
    WrongStateError,
)

DOMAIN = "hostmanager"
STATUS_DETAILS = (
    "grpc-status-details-bin"  # where gRPC clients of every language look for a google.rpc.Status
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field of a request, such as `requests[2].instance_id`."""

    field: str
    description: str


@dataclass(eq=False)
class RpcError(Exception):
    """An error that knows its status. `reason` is UPPER_SNAKE_CASE, for programs; `metadata` goes with it."""

    code: grpc.StatusCode
    reason: str
    message: str
    violations: tuple[Violation, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


def invalid(message: str, *violations: Violation) -> RpcError:
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message, violations)


def unknown_instances(violations: list[Violation]) -> RpcError:
    message = "; ".join(v.description for v in violations)
    return RpcError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_INSTANCE", message, tuple(violations))


def limit_reached(name: str, limit: int, remedy: str) -> RpcError:
    """A limit on what clients can make grow."""
    return RpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_REACHED",
        f"the limit {name}={limit} is reached; {remedy}",
        metadata={"limit": name, "value": str(limit)},
    )


def not_operable(instance_id: str, problem: str) -> RpcError:
    message = f"{instance_id!r} is not operable: {problem}"
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "NOT_OPERABLE", message)


def no_compose_files() -> RpcError:
    message = "no compose file is managed; name one with --docker-compose, or in the HostManager entry"
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "NO_COMPOSE_FILES", message)


def engine_unusable(why: str) -> RpcError:
    return RpcError(grpc.StatusCode.UNAVAILABLE, "ENGINE_UNREACHABLE", why)


def logs_unreadable(why: str) -> RpcError:
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "LOGS_UNREADABLE", why)


def unknown_orphans(violations: list[Violation]) -> RpcError:
    message = "; ".join(v.description for v in violations)
    return RpcError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_ORPHAN", message, tuple(violations))


def shutting_down() -> RpcError:
    return RpcError(
        grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the daemon is shutting down; try again when it is back"
    )


def internal() -> RpcError:
    return RpcError(
        grpc.StatusCode.INTERNAL, "INTERNAL", "an error of the daemon itself; its log has the traceback"
    )


def from_request_error(error: RequestError, entries: str) -> RpcError:
    """`entries` is the path of the request's repeated field that bad entries are counted in."""
    match error:
        case InvalidRequestError():
            violations = [Violation(f"{entries}[{bad.index}]", bad.why) for bad in error.entries]
            if all(bad.unknown for bad in error.entries):
                return unknown_instances(violations)
            return invalid(str(error), *violations)
        case WrongStateError():
            return RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"MANAGER_{error.state.name}",
                str(error),
                metadata={"manager_state": error.state.value},
            )
        case ConfigError():
            return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "CONFIG_UNUSABLE", str(error))
        case NotDurableError():
            return RpcError(grpc.StatusCode.UNAVAILABLE, "NOT_DURABLE", str(error))
        case UpgradeError() | EndingError():
            return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "UPGRADE_REFUSED", str(error))
        case ReplacingError():
            return RpcError(grpc.StatusCode.UNAVAILABLE, "BEING_UPGRADED", str(error))
        case StaleEpochError():
            return RpcError(grpc.StatusCode.ABORTED, "STALE_EPOCH", str(error))
    raise TypeError(f"no status for {error!r}") from error


def trailers(error: RpcError) -> tuple[tuple[str, str | bytes], ...]:
    """The google.rpc.Status with ErrorInfo, and BadRequest when there are violations, as metadata."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    packed = [_pack(info)]
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        packed.append(_pack(bad))
    status = status_pb2.Status(code=error.code.value[0], message=error.message, details=packed)
    return ((STATUS_DETAILS, status.SerializeToString()),)


def _pack(detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
