"""Options of the gRPC channels of the client."""

from __future__ import annotations

from hostmanager.values import dataclass

ChannelOptions = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True)
class Transport:
    """Time limits of a channel, in s.

    `connect`: time for a connection to open, which includes the round trips of a slow link and the delays of
    a busy machine. An absent daemon refuses the connection at once. `keepalive`: silence on a stream before
    the client sends a ping. `ping_timeout`: time for the answer to a ping before the connection counts as
    lost. So a quiet `logs -f` detects a frozen daemon or a cut network within the sum of both.
    """

    connect: float = 4.5
    # The daemon allows one ping a second; a link full of log lines delays the answers.
    keepalive: float = 20.0
    ping_timeout: float = 20.0

    def options(self) -> ChannelOptions:
        """Return the options of a gRPC channel."""
        ping_timeout = round(self.ping_timeout * 1000)
        return (
            # By default gRPC waits up to two minutes between attempts; the client has its own pauses.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
            # In spite of its name, this option limits an attempt to connect, not the pause between attempts.
            ("grpc.min_reconnect_backoff_ms", round(self.connect * 1000)),
            # Otherwise the channels of one process share connections and their backoff.
            ("grpc.use_local_subchannel_pool", 1),
            # The proxy of http_proxy does not lead to the daemons of a site.
            ("grpc.enable_http_proxy", 0),
            # attempts.py repeats calls and knows which calls are safe to repeat.
            ("grpc.enable_retries", 0),
            # A listing of 10,000 instances has about 10 MB; the default limit is 4 MiB.
            ("grpc.max_receive_message_length", 64 * 1024 * 1024),
            # A frozen daemon keeps its unix sockets open. Watches have heartbeats; log streams need pings.
            ("grpc.keepalive_time_ms", round(self.keepalive * 1000)),
            # In grpcio 1.85 this option sets the timeout of a ping; keepalive_timeout_ms alone has no effect.
            ("grpc.http2.ping_timeout_ms", ping_timeout),
            ("grpc.keepalive_timeout_ms", ping_timeout),
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.max_pings_without_data", 0),
        )
