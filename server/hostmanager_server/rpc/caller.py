"""Callers of RPCs: the client identity, and instance filters counted against its limits."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from hostmanager.values import dataclass

from hostmanager_server.rpc.admission import AdmissionControl
from hostmanager_server.rpc.selecting import InstanceFilter, parse_selectors
from hostmanager_server.rpc.validation import check_count, check_ids
from hostmanager_server.state.store import Tracked

UNPACED_IDS = 20  # the most ids of a filter that are checked without waiting for the pacer
SELECTOR_BYTES = 16 * 1024  # memory of a selector with a compiled pattern of up to 200 characters
BYTES_WAITING = 250  # memory of one id in a waiting request, serialized and parsed


@dataclass(frozen=True, slots=True)
class Caller:
    """One client of one server: a TCP host, or all processes on the unix socket."""

    client: str
    admission: AdmissionControl
    peer: str = ""  # as gRPC writes it
    metadata: Sequence[tuple[str, str | bytes]] = ()

    @asynccontextmanager
    async def filter(
        self,
        ids: Sequence[str],
        known: Mapping[str, Tracked],
        selectors: Sequence[str] = (),
        *,
        failing: bool = False,
    ) -> AsyncIterator[InstanceFilter]:
        """Hold the ids and the selectors of a filter in as little memory as possible.

        Raises RpcError for invalid ones, and when the client's filters would exceed the memory limit.
        """
        check_count(len(ids), "instance_ids")
        named, parsed = parse_selectors(selectors, known)
        if len(ids) > UNPACED_IDS:
            # Requests that wait for the pacer take memory, too.
            with self.admission.filter_bytes.hold(self.client, len(ids) * BYTES_WAITING):
                async with self.admission.message_pacer:
                    wanted, size = _compact(ids, known)
        else:
            wanted, size = _compact(ids, known)
        del ids, known  # must not live as long as the stream
        size = (size if wanted else 0) + len(parsed) * SELECTOR_BYTES
        with self.admission.filter_bytes.hold(self.client, size):
            yield InstanceFilter(wanted | named, parsed, failing)


def _compact(ids: Sequence[str], known: Mapping[str, Tracked]) -> tuple[frozenset[str], int]:
    """Return the ids and the bytes they take; the ids of tracked instances are shared and cost nothing."""
    check_ids(ids, "instance_ids", known)
    wanted = frozenset(known[i].instance.instance_id if i in known else i for i in ids)
    return wanted, sys.getsizeof(wanted) + sum(sys.getsizeof(i) for i in wanted if i not in known)


def client_of(peer: str) -> str:
    """Return the client that a gRPC peer counts as: the host over TCP, else the kind of socket."""
    if peer.startswith(("ipv4:", "ipv6:")):
        return peer.rpartition(":")[0]
    return peer.partition(":")[0]
