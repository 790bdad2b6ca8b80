"""Transports of the Docker Engine client that another thread can abort.

requests and urllib3 offer no way to end a blocked call, so these adapters register every socket of a
connection in an OpenSockets, which can shut them all down.
"""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress
from typing import Any

import requests.adapters
import urllib3
import urllib3.connection
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool

CALL_TIMEOUT = 10  # s without a byte of the answer


class OpenSockets:
    """The open sockets of one connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._is_shut = False

    def add(self, sock: socket.socket | None) -> None:
        """Take a new socket; raise ConnectionAbortedError after `shut_down`."""
        with self._lock:
            if sock is not None and not self._is_shut:
                self._open.add(sock)
                return
        raise ConnectionAbortedError("the connection was closed")

    def remove_timeout(self, fd: int) -> socket.socket | None:
        """Let reads from the socket with descriptor `fd` wait without limit, and return the socket."""
        with self._lock:
            for sock in self._open:
                if sock.fileno() == fd:
                    sock.settimeout(None)
                    return sock
        return None

    def shut_down(self) -> None:
        """Shut down every socket, and refuse later sockets."""
        with self._lock:
            self._is_shut = True
            for sock in self._open:
                shut_down(sock)


def shut_down(sock: socket.socket) -> None:
    """End all reads and writes of a socket, also those of other threads."""
    with suppress(OSError):  # the peer or this process closed the socket
        # Not the method of SSLSocket, which would remove the TLS layer of a thread that reads.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _UnixConnection(UnixHTTPConnection):
    """A connection to the engine's Unix socket, registered in `sockets`."""

    sockets: OpenSockets

    def connect(self) -> None:
        """Connect, and name the socket in the error."""
        try:
            super().connect()
        except OSError as error:
            error.filename = self.unix_socket  # errors of connect(2) do not name the socket
            raise
        self.sockets.add(self.sock)


class _UnixPool(UnixHTTPConnectionPool):
    """A pool of _UnixConnection."""

    sockets: OpenSockets

    def _new_conn(self) -> urllib3.connection.HTTPConnection:
        connection = _UnixConnection(self.base_url, self.socket_path, CALL_TIMEOUT)
        connection.sockets = self.sockets
        return connection


class UnixAdapter(UnixHTTPAdapter):
    """An adapter for the engine's Unix socket at `path`."""

    def __init__(self, path: str, sockets: OpenSockets) -> None:
        super().__init__(f"http+unix://{path}", CALL_TIMEOUT)
        self._pool = _UnixPool("http+docker://localhost", path, CALL_TIMEOUT)
        self._pool.sockets = sockets

    def get_connection(self, url: bytes | str, proxies: object = None) -> UnixHTTPConnectionPool:
        """Return the only pool."""
        return self._pool

    def close(self) -> None:
        """Close the adapter and the pool."""
        super().close()
        self._pool.close()


class TcpAdapter(requests.adapters.HTTPAdapter):
    """An adapter for an engine at a TCP address, with or without TLS."""

    def __init__(self, sockets: OpenSockets) -> None:
        self._pool_classes = _pool_classes(sockets)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Set the pool classes that register their sockets."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, *args: Any, **options: Any) -> urllib3.ProxyManager:
        """Set the pool classes that register their sockets."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager


def _pool_classes(sockets: OpenSockets) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return pool classes by scheme that register their sockets.

    urllib3 creates the pools and connections itself, so the sockets reach them only through their classes.
    """

    class PlainConnection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class EncryptedConnection(urllib3.connection.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class EncryptedPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = EncryptedConnection

    return {"http": PlainPool, "https": EncryptedPool}
