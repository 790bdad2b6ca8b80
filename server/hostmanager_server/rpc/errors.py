"""The one table of what an error becomes on the wire."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from hostmanager_server.core.event_log import Severity
from hostmanager_server.supervisor import (
    AdoptionError,
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


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field of a request, such as `requests[2].instance_id`."""

    field: str
    description: str


@dataclass(eq=False)
class RpcError(Exception):
    """An error that knows its status. `reason` is UPPER_SNAKE_CASE, for programs; `metadata` goes with it.

    `entries` follow the message in the text, put together with `separator`. Clients get as many of them, and
    of the violations, as fit into trailers (see rpc.trailers); `remedy` says where the rest can be read.
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
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message, violations)


def invalid_entries(violations: Sequence[FieldViolation]) -> RpcError:
    """Refuse a request for entries that make no sense."""
    return _bad_entries(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", violations)


def unknown_instances(violations: Sequence[FieldViolation]) -> RpcError:
    """Refuse a request for instances that are not tracked."""
    return _bad_entries(grpc.StatusCode.NOT_FOUND, "UNKNOWN_INSTANCE", violations)


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


def unknown_orphans(violations: Sequence[FieldViolation]) -> RpcError:
    """Refuse a request for containers that are no orphans."""
    return _bad_entries(grpc.StatusCode.NOT_FOUND, "UNKNOWN_ORPHAN", violations)


def _bad_entries(code: grpc.StatusCode, reason: str, violations: Sequence[FieldViolation]) -> RpcError:
    entries = tuple(violation.description for violation in violations)
    return RpcError(code, reason, "", tuple(violations), entries=entries)


def config_unusable(error: ConfigError) -> RpcError:
    """Refuse a request for the errors of the site config; these come first, before its warnings."""
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
            violations = [FieldViolation(f"{entries}[{bad.index}]", bad.why) for bad in error.entries]
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
