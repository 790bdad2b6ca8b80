"""Validation of request fields: ids, tokens, durations and page sizes.

Every check raises RpcError (INVALID_ARGUMENT) with a violation that names the field.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import grpc
from google.protobuf.duration_pb2 import Duration

from hostmanager_server.rpc.errors import FieldViolation, RpcError, invalid

MAX_IDS = 1000  # in one request
MAX_ID = 80  # characters, as in the site config; the name of a tracked compose service may be longer
MAX_TOKEN = 1024  # characters of tokens, epochs and names of gRPC services
MAX_PAGE = 1000  # entries
DEFAULT_HEARTBEAT = 15.0  # s
MIN_HEARTBEAT, MAX_HEARTBEAT = 1.0, 3600.0  # s
NANOS = 1_000_000_000  # in a second
_QUOTED = 40  # characters of an overlong text that an error repeats


def check_count(count: int, field: str) -> None:
    """Refuse a request with more than MAX_IDS entries."""
    if count > MAX_IDS:
        raise over_limit("max-ids-per-request", MAX_IDS, field, f"{count} entries", "send several requests")


def check_ids(ids: Sequence[str], field: str, known: Container[str]) -> None:
    """Refuse too many ids, and any id too long for an instance."""
    check_count(len(ids), field)
    for index, instance_id in enumerate(ids):
        if len(instance_id) > MAX_ID:  # rare, and only then looked up
            check_id(instance_id, f"{field}[{index}]", known)


def check_id(instance_id: str, field: str, known: Container[str]) -> None:
    """Refuse an id too long for an instance, unless an instance has it."""
    if len(instance_id) > MAX_ID and instance_id not in known:
        raise _too_long(instance_id, field, "max-id-characters", MAX_ID, "no instance has such an id")


def check_token(text: str, field: str) -> None:
    """Refuse a text longer than any token of this API."""
    if len(text) > MAX_TOKEN:
        raise _too_long(text, field, "max-token-characters", MAX_TOKEN, "give back what this API gave out")


def check_line(text: str, field: str, longest: int) -> None:
    """Refuse a text for people that is too long, or more than one printable line."""
    if len(text) > longest:
        raise _too_long(text, field, f"max-{field}-characters", longest, "shorten the text")
    if not text.isprintable():
        why = f"{field} must be one line of printable characters, not {text!r}"
        raise invalid(why, FieldViolation(field, why))


def _too_long(text: str, field: str, name: str, limit: int, remedy: str) -> RpcError:
    return over_limit(name, limit, field, f"{text[:_QUOTED]!r}... of {len(text)} characters", remedy)


def over_limit(name: str, limit: int, field: str, given: str, remedy: str) -> RpcError:
    """Return the error for a request above a limit of one request."""
    message = f"cannot take {given} as {field}: the limit is {name}={limit}; {remedy}"
    return RpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        message,
        (FieldViolation(field, message),),
        {"limit": name, "value": str(limit)},
    )


def duration(given: Duration, field: str, least: float, most: float) -> float:
    """Return a duration field in s, which must be `least` to `most` s."""
    bounds = f"{field} must be {least:.15g} s to {most:.15g} s"
    sign = -1 if given.seconds < 0 or given.nanos < 0 else 1
    if abs(given.nanos) >= NANOS or given.seconds * sign < 0 or given.nanos * sign < 0:
        text = (
            f"{bounds}, and {given.seconds} s with {given.nanos} nanos is no duration: nanos go from "
            f"{1 - NANOS} to {NANOS - 1}, with the sign of the seconds"
        )
        raise invalid(text, FieldViolation(field, text))
    from decimal import Decimal  # takes some ms of a start, and few requests have a duration

    exact = Decimal(given.seconds) + Decimal(given.nanos) / NANOS
    if not Decimal(least) <= exact <= Decimal(most):
        text = f"{bounds}, not {exact.normalize():f} s"
        raise invalid(text, FieldViolation(field, text))
    return float(exact)


def heartbeat_interval(given: Duration, *, is_set: bool) -> float:
    """Return the longest silence of a stream, in s."""
    if not is_set:
        return DEFAULT_HEARTBEAT
    return duration(given, "heartbeat_interval", MIN_HEARTBEAT, MAX_HEARTBEAT)


def page_size(given: int, default: int) -> int:
    """Return the number of entries in a page; 0 stands for the default."""
    if not 0 <= given <= MAX_PAGE:
        text = f"page_size must be 1 to {MAX_PAGE}, or 0 for the default ({default}), not {given}"
        raise invalid(text, FieldViolation("page_size", text))
    return given or default
