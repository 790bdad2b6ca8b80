"""The caller of an RPC: its share of what is limited, and the bounds on what its requests may name."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from hostmanager_server.rpc.errors import FieldViolation, RpcError
from hostmanager_server.rpc.limits import Quotas
from hostmanager_server.state.store import Tracked

MAX_IDS = 1000  # in one request
MAX_ID = 80  # characters, as in the site config; the name of a tracked compose service may be longer
MAX_TOKEN = 1024  # characters of tokens, epochs and names of gRPC services
FEW = 20  # ids that are looked at at once; more of them wait for their turn
BYTES_WAITING = 250  # that an id takes in a request, serialized and not
_SHOWN = 40  # characters of a text that is too long


@dataclass(frozen=True, slots=True)
class Caller:
    """One client of one server. `client` is a TCP host, or stands for all that use the unix socket."""

    client: str
    quotas: Quotas

    @asynccontextmanager
    async def filter(self, ids: Sequence[str], known: Mapping[str, Tracked]) -> AsyncIterator[frozenset[str]]:
        """Hold the ids of a filter in as little memory as they need. Raises RpcError when it is too much."""
        check_count(len(ids), "instance_ids")
        if len(ids) > FEW:
            # Requests that wait for their turn take memory, too.
            with self.quotas.filter_bytes.hold(self.client, len(ids) * BYTES_WAITING):
                async with self.quotas.messages:
                    wanted, size = _compact(ids, known)
        else:
            wanted, size = _compact(ids, known)
        del ids, known  # they are not to live as long as the stream
        with self.quotas.filter_bytes.hold(self.client, size if wanted else 0):
            yield wanted


def _compact(ids: Sequence[str], known: Mapping[str, Tracked]) -> tuple[frozenset[str], int]:
    """The ids, and the bytes that they take: one that is tracked is in memory already."""
    check_ids(ids, "instance_ids", known)
    wanted = frozenset(known[i].instance.instance_id if i in known else i for i in ids)
    return wanted, sys.getsizeof(wanted) + sum(sys.getsizeof(i) for i in wanted if i not in known)


def client_of(peer: str) -> str:
    """Who a peer is for counting: the host of a TCP peer; all that use the unix socket are one client."""
    if peer.startswith(("ipv4:", "ipv6:")):
        return peer.rpartition(":")[0]
    return peer.partition(":")[0]


def check_count(count: int, field: str) -> None:
    """Raises RpcError when a request names more than one may."""
    if count > MAX_IDS:
        raise _beyond("max-ids-per-request", MAX_IDS, field, f"{count} entries", "send several requests")


def check_ids(ids: Sequence[str], field: str, known: Container[str]) -> None:
    """Raises RpcError for too many ids, and for one that is too long to be that of an instance."""
    check_count(len(ids), field)
    for index, instance_id in enumerate(ids):
        if len(instance_id) > MAX_ID:  # seldom, and only then looked up
            check_id(instance_id, f"{field}[{index}]", known)


def check_id(instance_id: str, field: str, known: Container[str]) -> None:
    """Raises RpcError for an id that is too long to be that of an instance."""
    if len(instance_id) > MAX_ID and instance_id not in known:
        raise _too_long(instance_id, field, "max-id-characters", MAX_ID, "no instance has such an id")


def check_token(text: str, field: str) -> None:
    """Raises RpcError for a text that is too long to be one that this API gave out."""
    if len(text) > MAX_TOKEN:
        raise _too_long(text, field, "max-token-characters", MAX_TOKEN, "give back what this API gave out")


def _too_long(text: str, field: str, name: str, limit: int, remedy: str) -> RpcError:
    return _beyond(name, limit, field, f"{text[:_SHOWN]!r}... of {len(text)} characters", remedy)


def _beyond(name: str, limit: int, field: str, given: str, remedy: str) -> RpcError:
    message = f"cannot take {given} as {field}: the limit is {name}={limit}; {remedy}"
    return RpcError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        message,
        (FieldViolation(field, message),),
        {"limit": name, "value": str(limit)},
    )
