"""The gRPC server: its addresses, limits, health and reflection."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import resource
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2

from hostmanager_server.lock_file import HeldError, take_lock_file
from hostmanager_server.rpc import health, reflect, service
from hostmanager_server.rpc.context import Context
from hostmanager_server.trusted_paths import Trust, UntrustedError, make_folder

log = logging.getLogger(__name__)

# How long a stopping server waits for calls that are under way, s.
STOP_GRACE = 2.0
_FEWEST_CONNECTIONS = 16
_ON_ITS_WAY = 0.02  # s from an answer to its being sent


class AddressError(Exception):
    """An address cannot be listened on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what clients can make grow (DESIGN section 10); counts unless stated otherwise."""

    watchers: int = 4096
    watchers_per_client: int = 2048
    calls: int = 8192  # under way at once
    connections: int = 1024
    streams_per_connection: int = 2048
    request_bytes: int = 1024 * 1024
    handshake_seconds: int = 10


@dataclass(frozen=True, slots=True)
class Listen:
    """One address to serve on: a unix socket's path, or host and port of a loopback address."""

    text: str
    socket: Path | None = None

    @property
    def is_unix(self) -> bool:
        return self.socket is not None

    @property
    def grpc_address(self) -> str:
        """The address in gRPC's words, which are half a URI: it decodes percent signs, and ends at a `#`."""
        return self.text if self.socket is None else f"unix:{quote(os.fsencode(self.socket))}"


def parse_listen(text: str, *, insecure: bool) -> Listen:
    """Read `unix:PATH`, a path with a slash, or `HOST:PORT`. Raises AddressError.

    A path is the name of a file as it stands: nothing in it is decoded. A relative one is taken from the
    working directory, `~` is the home directory.
    """
    if text.startswith("unix-abstract:") or text.removeprefix("unix:").startswith("@"):
        raise AddressError(
            f"cannot listen on {text!r}: an abstract socket has no owner and no mode, so every user of this "
            "machine could reach it; use unix:PATH (./@NAME for a file of such a name)"
        )
    if text.startswith("unix:") or "/" in text:
        return _parse_socket(text)
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not host:
        raise AddressError(
            f"cannot listen on {text!r}: give HOST:PORT such as 127.0.0.1:5555, or unix:PATH for a socket"
        )
    if not _is_loopback(host):
        raise AddressError(
            f"cannot listen on {text}: without TLS only loopback addresses are served; "
            "use 127.0.0.1, and an SSH tunnel from elsewhere"
        )
    if not insecure:
        raise AddressError(
            f"cannot listen on {text}: every user of this machine could reach it without a credential; "
            "add --insecure if that is wanted, or use a unix socket"
        )
    return Listen(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _parse_socket(text: str) -> Listen:
    name = text.removeprefix("unix:")
    if name.startswith("//"):  # of unix:///path
        name = name.removeprefix("//") if text.startswith("unix:") else name
        if not name.startswith("/"):
            raise AddressError(
                f"cannot listen on {text!r}: after unix:// comes an absolute path, as in unix:///{name}"
            )
    if not name or name.endswith("/") or "\0" in name:
        raise AddressError(f"cannot listen on {text!r}: no socket is named; give unix:PATH, without a NUL")
    path = Path(os.path.expanduser(name)).absolute()
    if "," in str(path):
        raise AddressError(
            f"cannot listen on {path}: gRPC clients split an address at a comma; use a path without one"
        )
    if len(os.fsencode(path)) > 107:  # sockaddr_un.sun_path, unix(7)
        raise AddressError(f"cannot listen on {path}: a socket path has at most 107 bytes; use a shorter one")
    return Listen(f"unix:{path}", path)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server:
    """Serves on every address; `serve` and `stop` belong to the event loop."""

    def __init__(
        self,
        context: Context,
        listen: list[Listen],
        limits: Limits,
        *,
        tcp_reflection: bool,
        trust: Trust | None = None,
    ) -> None:
        """`trust`: whether others may be able to write a socket's folder; None: as this process demands."""
        self._trust = trust or Trust.of_this_process()
        self._hub = context.hub
        self._listen = listen
        self._locks: list[int] = []
        self._sockets: list[Path] = []  # that this server made
        self._calls = service.UnaryCalls()
        self._health = grpc_health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=_options(limits),
            maximum_concurrent_rpcs=limits.calls,
            handlers=[
                service.handlers(context, self._calls),
                health.handlers(self._health),
                *reflect.handlers(tcp=tcp_reflection),
            ],
        )

    def bind(self) -> list[str]:
        """Listen; who connects waits for `serve`. The addresses, with the ports that were chosen for port 0.
        Raises AddressError."""
        bound = []
        for listen in self._listen:
            if listen.socket is not None:
                self._prepare_socket(listen.socket)
            mask = os.umask(0o177)  # a socket that only its owner can connect to
            try:
                port = self._server.add_insecure_port(listen.grpc_address)
            except RuntimeError as error:
                raise AddressError(f"cannot listen on {listen.text}: {_why(listen)}") from error
            finally:
                os.umask(mask)
            if listen.socket is not None:
                self._sockets.append(listen.socket)
            bound.append(listen.text if listen.is_unix else f"{listen.text.rpartition(':')[0]}:{port}")
        return bound

    async def serve(self) -> None:
        """Answer from now on."""
        await self._server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """What the health service says."""
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if serving else answer.NOT_SERVING
        for name in ("", service.SERVICE.full_name):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """End the streams, let calls finish, close. May be called again."""
        # Before anybody is sent away: a client of gRPC (1.85) that comes back while a server stops may wait
        # for ever, when the GOAWAY meets a connection that is being made.
        while self._sockets:
            with suppress(OSError):  # it is gone, or the disk is read-only
                self._sockets.pop().unlink()
        await self.set_serving(False)
        self._hub.close()
        # There are clients that drop what they wait for when they are told that the server goes away, Die's
        # own answer included. What was answered is on its way a moment later.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calls.wait_for_none(), STOP_GRACE)
            await asyncio.sleep(_ON_ITS_WAY)
        await self._server.stop(STOP_GRACE)
        while self._locks:
            os.close(self._locks.pop())
        await asyncio.sleep(0)  # let handlers that were cancelled run their `finally`

    def _prepare_socket(self, path: Path) -> None:
        try:
            make_folder(path.parent)
            check_socket_folder(path, self._trust)
            if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
                raise AddressError(
                    f"cannot listen on unix:{path}: a file that is no socket is there; move it away"
                )
            # gRPC unlinks a socket that is in its way, even one that another daemon serves: hence the lock.
            self._locks.append(take_lock_file(Path(f"{path}.lock"), any_owner=self._trust.override))
        except HeldError as error:
            raise AddressError(
                f"cannot listen on unix:{path}: {error} serves there; stop it, or use another --listen"
            ) from error
        except OSError as error:
            why = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
            raise AddressError(f"cannot listen on unix:{path}: {why}") from error


def check_socket_folder(socket: Path, trust: Trust) -> None:
    """Log who else may replace a socket. Raises AddressError where that is refused."""
    try:
        for warning in trust.check(socket.parent):
            log.warning("the folder of the socket %s: %s", socket, warning)
    except UntrustedError as error:
        raise AddressError(f"cannot listen on unix:{socket}: {error}") from error


def _why(listen: Listen) -> str:
    if listen.is_unix:
        return "the directory cannot be written, or is not there"
    return "the address is in use, or not one of this machine; choose another port"


def _affordable_connections() -> int:
    """So many that however many clients come, most descriptors are left for the agents."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_FEWEST_CONNECTIONS, files // 4) if files != resource.RLIM_INFINITY else 2**31 - 1


def _options(limits: Limits) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 0),  # or two daemons share a port in silence
        ("grpc.max_receive_message_length", limits.request_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        ("grpc.max_allowed_incoming_connections", min(limits.connections, _affordable_connections())),
        ("grpc.server_handshake_timeout_ms", limits.handshake_seconds * 1000),
        ("grpc.max_metadata_size", 16 * 1024),
        # A client that pings on a quiet watch is not a nuisance.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Notice clients whose machine has vanished.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
