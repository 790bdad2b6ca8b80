"""RPC errors: the status code, reason and text of every failure that clients see."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import grpc
from hostmanager.values import dataclass, field

from hostmanager_server.core.event_log import Severity
from hostmanager_server.supervisor import (
    AdoptionError,
    ConfigError,
    EndingError,
    InvalidRequestError,
    NotDurableError,
    ReplacingError,
    RequestError,
    SignalError,
    StaleEpochError,
    UpgradeError,
    WrongStateError,
)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request, such as `requests[2].instance_id`."""

    field: str
    description: str


@dataclass(eq=False)
class RpcError(Exception):
    """An error with its gRPC status.

    `reason` (UPPER_SNAKE_CASE) and `metadata` are for programs. The text is the message followed by the
    `entries`, joined with `separator`. Clients get as many entries and violations as fit into the trailers
    (see rpc.trailers); `remedy` tells them where to read the rest.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    entries: tuple[str, ...] = ()
    separator: str = "; "
    remedy: str = ""


def invalid(message: str, *violations: FieldViolation) -> RpcError:
    """Return the error for an invalid request."""
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message, violations)


def invalid_entries(violations: Sequence[FieldViolation]) -> RpcError:
    """Return the error for a request with invalid entries."""
    return _bad_entries(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations)


def unknown_instances(violations: Sequence[FieldViolation]) -> RpcError:
    """Return the error for a request that names instances the daemon does not track."""
    return _bad_entries(grpc.StatusCode.NOT_FOUND, "UNKNOWN_INSTANCE", violations)


def limit_reached(name: str, limit: int, remedy: str) -> RpcError:
    """Return the error for a call above one of the limits of rpc.admission."""
    return RpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LIMIT_REACHED",
        f"the limit {name}={limit} is reached; {remedy}",
        metadata={"limit": name, "value": str(limit)},
    )


def not_operable(instance_id: str, problem: str) -> RpcError:
    """Return the error for an instance without a runnable definition."""
    message = f"{instance_id!r} is not operable: {problem}"
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "NOT_OPERABLE", message)


def no_compose_files() -> RpcError:
    """Return the error for a Docker request to a daemon without compose files."""
    message = "no compose file is managed; name one with --docker-compose, or in the HostManager entry"
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "NO_COMPOSE_FILES", message)


def engine_unusable(why: str) -> RpcError:
    """Return the error for a Docker Engine that does not answer as needed."""
    return RpcError(grpc.StatusCode.UNAVAILABLE, "ENGINE_UNREACHABLE", why)


def logged_by_systemd(command: str) -> RpcError:
    """Return the error for a daemon without a log file of its own."""
    text = f"cannot read the log of the daemon: systemd keeps it; use `{command}` on the host of the daemon"
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "LOGGED_BY_SYSTEMD", text)


def logs_unreadable(why: str) -> RpcError:
    """Return the error for output that stays unreadable on a retry."""
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "LOGS_UNREADABLE", why)


def no_such_run(instance_id: str) -> RpcError:
    """Return the error for the output of an earlier run that the daemon does not know."""
    message = (
        f"cannot read the previous output of {instance_id!r}: no run is known that has ended;"
        " read all of its output, without 'previous'"
    )
    return RpcError(grpc.StatusCode.NOT_FOUND, "NO_SUCH_RUN", message)


def unknown_orphans(violations: Sequence[FieldViolation]) -> RpcError:
    """Return the error for container ids that belong to no orphan."""
    return _bad_entries(grpc.StatusCode.NOT_FOUND, "UNKNOWN_ORPHAN", violations)


def unknown_service(name: str, known: Sequence[str]) -> RpcError:
    """Return the error for a health check of a gRPC service that the daemon does not have."""
    message = f"cannot check the health of {name!r}: no such service (known: {', '.join(known)})"
    return RpcError(grpc.StatusCode.NOT_FOUND, "UNKNOWN_SERVICE", message)


def reflection_off() -> RpcError:
    """Return the error for reflection over TCP without --reflection."""
    message = "server reflection is off over TCP; start the daemon with --reflection, or use the socket"
    return RpcError(grpc.StatusCode.UNIMPLEMENTED, "REFLECTION_OFF", message)


def _bad_entries(code: grpc.StatusCode, reason: str, violations: Sequence[FieldViolation]) -> RpcError:
    entries = tuple(violation.description for violation in violations)
    return RpcError(code, reason, "", tuple(violations), entries=entries)


def config_unusable(error: ConfigError) -> RpcError:
    """Return the error for an unusable site config; its errors come before its warnings."""
    problems = sorted(error.problems, key=lambda problem: problem.severity is not Severity.ERROR)
    return RpcError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "CONFIG_UNUSABLE",
        error.summary,
        entries=tuple(map(str, problems)),
        separator="\n",
        remedy=f"`hostmanager config check {shlex.quote(error.file)}` lists all",
    )


def shutting_down() -> RpcError:
    """Return the error for calls and streams that the end of the daemon interrupts."""
    return RpcError(
        grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", "the daemon is shutting down; try again when it is back"
    )


def internal() -> RpcError:
    """Return the error for a bug in the daemon."""
    return RpcError(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        "an internal error of the daemon; the daemon's log has the traceback",
    )


_SINGLE = ("instance",)  # request fields with one entry


def _place(entries: str, index: int) -> str:
    return entries if entries in _SINGLE else f"{entries}[{index}]"


def from_request_error(error: RequestError, entries: str) -> RpcError:
    """Return the RPC error for an error of the supervisor.

    `entries` is the path of the repeated request field that the indexes of bad entries refer to, or of a
    field of _SINGLE.
    """
    match error:
        case InvalidRequestError():
            violations = [
                FieldViolation(bad.where or _place(entries, bad.index), bad.why) for bad in error.entries
            ]
            if all(bad.unknown for bad in error.entries):
                return unknown_instances(violations)
            return invalid_entries(violations)
        case WrongStateError():
            return RpcError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"MANAGER_{error.state.name}",
                str(error),
                metadata={"manager_state": error.state.value},
            )
        case ConfigError():
            return config_unusable(error)
        case SignalError():
            return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "NOT_SIGNALLED", str(error))
        case NotDurableError():
            return RpcError(grpc.StatusCode.UNAVAILABLE, "NOT_DURABLE", str(error))
        case AdoptionError():
            return RpcError(grpc.StatusCode.UNAVAILABLE, "NOT_TAKEN_BACK", str(error))
        case UpgradeError() | EndingError():
            return RpcError(grpc.StatusCode.FAILED_PRECONDITION, "UPGRADE_REFUSED", str(error))
        case ReplacingError():
            return RpcError(grpc.StatusCode.UNAVAILABLE, "BEING_UPGRADED", str(error))
        case StaleEpochError():
            return RpcError(grpc.StatusCode.ABORTED, "STALE_EPOCH", str(error))
    raise TypeError(f"no status for {error!r}") from error
