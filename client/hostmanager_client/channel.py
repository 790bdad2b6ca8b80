"""The options of the client's gRPC channels, with the reason for each."""

from __future__ import annotations

from hostmanager_client.address import Address

ChannelOptions = tuple[tuple[str, int | str], ...]

KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000


def channel_options(address: Address) -> ChannelOptions:
    """The options of a channel to `address`."""
    options: ChannelOptions = (
        # gRPC waits up to two minutes between its own attempts to connect; our pauses are to count.
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
        # Channels of one process share connections, and their backoff, unless told not to.
        ("grpc.use_local_subchannel_pool", 1),
        # A site's daemons are never behind the proxy that http_proxy names.
        ("grpc.enable_http_proxy", 0),
        # Calls are retried by whoever knows whether that is safe, not by the transport.
        ("grpc.enable_retries", 0),
        # A listing of 10,000 instances is some 10 MB; the default limit is 4 MiB.
        ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    )
    if address.is_unix:
        return options  # the kernel says at once when the other end is gone
    return (
        *options,
        # Finds a dead peer under a quiet `logs -f`. Watches have heartbeats, faster than this. Only while a
        # call is open, and slow enough for the daemon (it allows one each 10 s, data or not).
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
    )
