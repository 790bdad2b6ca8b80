"""The gRPC servers: one for all clients, and one reserved for admins."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import grpc

from hostmanager_server.linux.trusted_paths import Trust
from hostmanager_server.rpc import reflect, service
from hostmanager_server.rpc.admission import AdmissionControl
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.health import Health
from hostmanager_server.rpc.limits import Limits
from hostmanager_server.rpc.listen import (
    AddressError,
    ListenAddress,
    check_socket_folder,
    likely_cause,
    lock_socket,
    parse_listen,
)
from hostmanager_server.rpc.server_options import server_options

__all__ = [
    "STOP_GRACE",
    "AddressError",
    "Limits",
    "ListenAddress",
    "Server",
    "check_socket_folder",
    "parse_listen",
]

log = logging.getLogger(__name__)

STOP_GRACE = 2.0  # the longest wait of a stopping server for calls in flight, s
_SEND_DELAY = 0.02  # s between the return of a handler and the sending of its response


class Server:
    """The daemon's gRPC servers on all addresses; `serve` and `stop` belong to the event loop.

    Next to each unix socket is another socket of the same owner and mode, reserved for admins. A second
    server with separate limits serves the admin sockets, so that clients cannot use up the admins' share.
    """

    def __init__(
        self,
        context: RpcContext,
        listen: list[ListenAddress],
        limits: Limits,
        *,
        tcp_reflection: bool,
        trust: Trust | None = None,
    ) -> None:
        """Build both servers; `bind` opens the sockets.

        `trust` decides which other users may be able to write a socket's directory; None stands for the rules
        of this process.
        """
        self._trust = trust or Trust.of_this_process()
        self._hub = context.hub
        self._locks: list[int] = []
        self._sockets: list[Path] = []  # created by this server
        self._calls = service.UnaryCalls()
        self._health = Health(context.hub)
        self._service = service.Service(context)
        self._tcp_reflection = tcp_reflection
        reserved = [admins for each in listen if (admins := each.for_admins()) is not None]
        for each in listen:
            if each.is_unix and each.for_admins() is None:
                log.warning("cannot reserve connections for admins: the path of %s is too long", each.text)
        self._servers = [self._build(listen, limits), self._build(reserved, limits.for_admins())]

    def _build(
        self, addresses: list[ListenAddress], limits: Limits
    ) -> tuple[grpc.aio.Server, list[ListenAddress], AdmissionControl]:
        """Create a server for these addresses, with separate admission control."""
        admission = AdmissionControl(limits)
        server = grpc.aio.server(
            options=server_options(limits, len(addresses)),
            maximum_concurrent_rpcs=limits.calls,
            handlers=[
                self._service.handlers(admission, self._calls),
                self._health.handlers(admission),
                *reflect.handlers(self._hub, admission, tcp=self._tcp_reflection),
            ],
        )
        return server, addresses, admission

    @property
    def admission(self) -> Sequence[AdmissionControl]:
        """The admission control of each server; the admins' server comes last."""
        return [admission for _, _, admission in self._servers]

    def bind(self) -> list[str]:
        """Open the sockets; clients that connect wait for `serve`.

        Returns the addresses without the admins' ones, and with the ports chosen for port 0. Raises
        AddressError.
        """
        bound = [[self._bind(server, each) for each in listen] for server, listen, _ in self._servers]
        return bound[0]

    async def serve(self) -> None:
        """Start answering calls."""
        for server, _, _ in self._servers:
            await server.start()
        await self.set_serving(serving=True)

    async def set_serving(self, *, serving: bool) -> None:
        """Set the status that the health service reports."""
        for name in ("", service.SERVICE.full_name):
            await self._health.set(name, serving=serving)

    async def stop(self) -> None:
        """End the streams, let unary calls finish, and close. A second call changes nothing."""
        # The sockets go before the GOAWAY: a client of gRPC (1.85) that reconnects to a stopping server may
        # wait for ever, when the GOAWAY meets a connection in the handshake.
        while self._sockets:
            with suppress(OSError):  # already gone, or the disk is read-only
                self._sockets.pop().unlink()
        await self.set_serving(serving=False)
        self._hub.close()
        for admission in self.admission:
            admission.pending_requests.close()
        # Some clients drop pending responses, the one to Die included, when the server announces that it goes
        # away. Responses are on the wire a moment after their handlers return.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calls.wait_for_none(), STOP_GRACE)
            await asyncio.sleep(_SEND_DELAY)
        await asyncio.gather(*(server.stop(STOP_GRACE) for server, _, _ in self._servers))
        while self._locks:
            os.close(self._locks.pop())
        await asyncio.sleep(0)  # lets cancelled handlers run their `finally`

    def _bind(self, server: grpc.aio.Server, listen: ListenAddress) -> str:
        if listen.socket is not None:
            self._locks.append(lock_socket(listen.socket, self._trust))
        mask = os.umask(0o177)  # only the owner can connect to the socket
        try:
            port = server.add_insecure_port(listen.grpc_address)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {listen.text}: {likely_cause(listen)}") from error
        finally:
            os.umask(mask)
        if listen.socket is not None:
            self._sockets.append(listen.socket)
            return listen.text
        return f"{listen.text.rpartition(':')[0]}:{port}"
