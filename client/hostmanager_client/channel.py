"""The options of the client's gRPC channels, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass

ChannelOptions = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True)
class Transport:
    """Patience of a channel, in s.

    `connect`: how long a connection may take to come up: round trips of a slow link, and a daemon on a busy
    machine that has to find the time. A daemon that is not there refuses at once. `keepalive` and
    `ping_timeout`: a stream on which nothing comes for so long is tested, and lost without an answer in so
    long. A quiet `logs -f` notices within the sum of both that the daemon is frozen or the network cut.
    """

    connect: float = 4.5
    # Slow enough for the daemon, which allows one ping each second; patient with a link full of log lines.
    keepalive: float = 20.0
    ping_timeout: float = 20.0

    def options(self) -> ChannelOptions:
        """Make the options of a gRPC channel."""
        ping_timeout = round(self.ping_timeout * 1000)
        return (
            # gRPC waits up to two minutes between its own attempts to connect; our pauses are to count.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
            # In spite of its name this bounds an attempt to connect, and no pause between two of them.
            ("grpc.min_reconnect_backoff_ms", round(self.connect * 1000)),
            # Channels of one process share connections, and their backoff, unless told not to.
            ("grpc.use_local_subchannel_pool", 1),
            # A site's daemons are never behind the proxy that http_proxy names.
            ("grpc.enable_http_proxy", 0),
            # attempts.py repeats calls, and knows whether that is safe; the transport does not.
            ("grpc.enable_retries", 0),
            # A listing of 10,000 instances is some 10 MB; the default limit is 4 MiB.
            ("grpc.max_receive_message_length", 64 * 1024 * 1024),
            # A frozen daemon keeps its end of a unix socket open too. Watches have heartbeats.
            ("grpc.keepalive_time_ms", round(self.keepalive * 1000)),
            # This decides when a ping was in vain; keepalive_timeout_ms alone has no effect in grpcio 1.85.
            ("grpc.http2.ping_timeout_ms", ping_timeout),
            ("grpc.keepalive_timeout_ms", ping_timeout),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 0),
        )
