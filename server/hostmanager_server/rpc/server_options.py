"""gRPC server options, with the reason for each."""

from __future__ import annotations

import resource
from typing import Any

from hostmanager_server.rpc.limits import Limits

_FEWEST_CONNECTIONS = 16


def server_options(limits: Limits, listeners: int) -> list[tuple[str, Any]]:
    """Return the options of a server with `listeners` addresses; gRPC counts connections for each address."""
    return [
        ("grpc.so_reuseport", 0),  # otherwise two daemons can share a port without an error
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", _connections(limits, listeners)),
        ("grpc.server_handshake_timeout_ms", limits.handshake_seconds * 1000),
        # No max_connection_idle_ms: a call made just when it expires fails (1 of 36 in grpcio 1.85).
        ("grpc.max_metadata_size", 16 * 1024),
        # Calls that wait for their handler, some 17 kB each, in order of arrival. Above the first value gRPC
        # answers some calls with CANCELLED, at random, above the second all. Without this bound a burst on
        # many connections takes hundreds of MB, and others wait for seconds behind the burst.
        ("grpc.server.max_pending_requests", limits.calls_not_begun),
        ("grpc.server.max_pending_requests_hard_limit", limits.calls_not_begun + 200),
        # Bytes that a connection may send ahead for each waiting call; the probe would raise the number.
        ("grpc.http2.lookahead_bytes", 8 * 1024),
        ("grpc.http2.bdp_probe", 0),
        # The most bytes of one read from a socket. A piece of a waiting request keeps the whole buffer of its
        # read, which grows to 4 MiB otherwise.
        ("grpc.experimental.tcp_max_read_chunk_size", 16 * 1024),
        # Clients may ping on a quiet watch without being disconnected.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Detect clients whose machine has vanished. ping_timeout_ms (default 60 s) bounds a ping;
        # keepalive_timeout_ms alone has no effect in grpcio 1.85.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
    ]


def _connections(limits: Limits, listeners: int) -> int:
    """Return the most connections that leave three quarters of the file descriptors to the daemon."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits.connections
    return min(limits.connections, max(_FEWEST_CONNECTIONS, files // 4 // max(1, listeners)))
