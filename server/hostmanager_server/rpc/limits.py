"""Limits on the connections, calls and streams of clients.

The names that clients see, and the counting, are in rpc.admission.
"""

from __future__ import annotations

from hostmanager.values import dataclass, replace


@dataclass(frozen=True, slots=True)
class Limit:
    """The most of one thing that the clients of a server may hold: all together, and each alone."""

    total: int
    per_client: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server. Counts unless stated otherwise.

    All processes on the unix socket count as one client, and so does each TCP host. Each value except `calls`
    fits into 64 MiB of memory when one client takes all it may. A call that waits costs some 20 kB.
    """

    watchers: int = 4096  # streams of every kind
    watchers_per_client: int = 2048
    log_streams: Limit = Limit(128, 64)  # a reader that stalls holds up to two batches of 64 KiB
    engine_streams: Limit = Limit(64, 32)  # followed pulls, and removals of orphans
    filter_bytes: Limit = Limit(8 * 1024**2, 3 * 1024**2)  # memory for the instance_ids of watches
    long_calls: Limit = Limit(256, 128)  # see LONG_CALLS in rpc.service
    queued_calls: Limit = Limit(1024, 512)  # see LARGE_CHANGES and LARGE_LISTS in rpc.service
    calls_without_request: Limit = Limit(128, 64)  # each may have sent all of a request but the end
    # Requests of unary calls from parsing to answer, see LARGE_REQUEST in rpc.service. A byte takes up to 26
    # bytes of memory: 2 in a request of 1,000 long ids, 26 in a request of empty entries.
    waiting_request_bytes: Limit = Limit(3 * 1024**2 // 2, 3 * 1024**2 // 4)
    calls: int = 8192  # in flight, streams included
    calls_not_begun: int = 3000  # received, without a handler yet: some 50 MB
    connections: int = 1024
    # gRPC starts calls in order of arrival: up to this many of one connection before those of another. A
    # client with 64 log streams on one connection still has room for watches and calls; further calls wait.
    streams_per_connection: int = 96
    # 1,000 ids of 80 characters take 332 KiB when each character takes four bytes.
    request_bytes: int = 384 * 1024
    handshake_seconds: int = 10

    def for_admins(self) -> Limits:
        """Return the limits of the server reserved for admins."""
        few = Limit(16, 16)
        return replace(
            self,
            watchers=min(self.watchers, 128), watchers_per_client=min(self.watchers_per_client, 128),
            log_streams=few, engine_streams=few, long_calls=few, filter_bytes=Limit(2**20, 2**20),
            queued_calls=Limit(64, 64), calls_without_request=Limit(64, 64),
            calls=512, calls_not_begun=512, connections=32,
        )  # fmt: skip
