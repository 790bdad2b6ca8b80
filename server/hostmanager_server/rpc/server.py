"""The gRPC servers: one for everyone, and one with places that are kept back for admins."""

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
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.health import Health
from hostmanager_server.rpc.limits import Limits, Quotas
from hostmanager_server.rpc.listen import (
    AddressError,
    Listen,
    check_socket_folder,
    lock_socket,
    parse_listen,
    why_not,
)
from hostmanager_server.rpc.options import server_options

__all__ = ["STOP_GRACE", "AddressError", "Limits", "Listen", "Server", "check_socket_folder", "parse_listen"]

log = logging.getLogger(__name__)

# How long a stopping server waits for calls that are under way, s.
STOP_GRACE = 2.0
_ON_ITS_WAY = 0.02  # s from an answer to its being sent


class Server:
    """Serves on every address; `serve` and `stop` belong to the event loop.

    Next to each unix socket stands one for admins, of the same owner and mode. It belongs to a server of its
    own with limits of its own, so that clients which take all that the first one has leave it alone.
    """

    def __init__(
        self,
        context: RpcContext,
        listen: list[Listen],
        limits: Limits,
        *,
        tcp_reflection: bool,
        trust: Trust | None = None,
    ) -> None:
        """`trust`: whether others may be able to write a socket's folder; None: as this process demands."""
        self._trust = trust or Trust.of_this_process()
        self._hub = context.hub
        self._locks: list[int] = []
        self._sockets: list[Path] = []  # that this server made
        self._calls = service.UnaryCalls()
        self._health = Health(context.hub)
        answers = service.Service(context)
        reserve = [admins for each in listen if (admins := each.for_admins()) is not None]
        for each in listen:
            if each.is_unix and each.for_admins() is None:
                log.warning("no connections are kept back for admins: the path of %s is too long", each.text)
        self._servers: list[tuple[grpc.aio.Server, list[Listen], Quotas]] = []
        for addresses, bounds in ((listen, limits), (reserve, limits.for_admins())):
            quotas = Quotas(bounds)
            server = grpc.aio.server(
                options=server_options(bounds, len(addresses)),
                maximum_concurrent_rpcs=bounds.calls,
                handlers=[
                    answers.handlers(quotas, self._calls),
                    self._health.handlers(quotas),
                    *reflect.handlers(context.hub, quotas, tcp=tcp_reflection),
                ],
            )
            self._servers.append((server, addresses, quotas))

    @property
    def quotas(self) -> Sequence[Quotas]:
        """What the clients of each server hold; those of the admins' come last."""
        return [quotas for _, _, quotas in self._servers]

    def bind(self) -> list[str]:
        """Listen; who connects waits for `serve`. The addresses for everyone, with the ports that were chosen
        for port 0. Raises AddressError."""
        bound = [[self._bind(server, each) for each in listen] for server, listen, _ in self._servers]
        return bound[0]

    async def serve(self) -> None:
        """Answer from now on."""
        for server, _, _ in self._servers:
            await server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """What the health service says."""
        for name in ("", service.SERVICE.full_name):
            await self._health.set(name, serving=serving)

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
        await asyncio.gather(*(server.stop(STOP_GRACE) for server, _, _ in self._servers))
        while self._locks:
            os.close(self._locks.pop())
        await asyncio.sleep(0)  # let handlers that were cancelled run their `finally`

    def _bind(self, server: grpc.aio.Server, listen: Listen) -> str:
        if listen.socket is not None:
            self._locks.append(lock_socket(listen.socket, self._trust))
        mask = os.umask(0o177)  # a socket that only its owner can connect to
        try:
            port = server.add_insecure_port(listen.grpc_address)
        except RuntimeError as error:
            raise AddressError(f"cannot listen on {listen.text}: {why_not(listen)}") from error
        finally:
            os.umask(mask)
        if listen.socket is not None:
            self._sockets.append(listen.socket)
            return listen.text
        return f"{listen.text.rpartition(':')[0]}:{port}"
