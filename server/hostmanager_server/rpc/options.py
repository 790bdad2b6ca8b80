"""The options of the gRPC servers, with the reason for each."""

from __future__ import annotations

import resource
from typing import Any

from hostmanager_server.rpc.limits import Limits

_FEWEST_CONNECTIONS = 16


def server_options(limits: Limits, listeners: int) -> list[tuple[str, Any]]:
    """The options of a server that listens on so many addresses, each of which gRPC counts for itself."""
    return [
        ("grpc.so_reuseport", 0),  # or two daemons share a port in silence
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", _connections(limits, listeners)),
        ("grpc.server_handshake_timeout_ms", limits.handshake_seconds * 1000),
        # No max_connection_idle_ms: a call that is made at that very moment fails (1 of 36 in grpcio 1.85).
        ("grpc.max_metadata_size", 16 * 1024),
        # Calls that wait to be begun. Beyond the first of these gRPC answers some with CANCELLED, by chance,
        # beyond the second all; its own values are 1,000 and 3,000, less than the calls that are let in.
        ("grpc.server.max_pending_requests", 2 * limits.calls),
        ("grpc.server.max_pending_requests_hard_limit", 4 * limits.calls),
        # What a connection may send before it is read: for each call that waits, and without growing on its
        # own.
        ("grpc.http2.lookahead_bytes", 8 * 1024),
        ("grpc.http2.bdp_probe", 0),
        # A client that pings on a quiet watch is not a nuisance.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Notice clients whose machine has vanished. The time-out of a ping is ping_timeout_ms (60 s as a
        # rule); keepalive_timeout_ms has no effect by itself in grpcio 1.85.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
    ]


def _connections(limits: Limits, listeners: int) -> int:
    """So many that however many clients come, most descriptors are left for the agents."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits.connections
    return min(limits.connections, max(_FEWEST_CONNECTIONS, files // 4 // max(1, listeners)))
