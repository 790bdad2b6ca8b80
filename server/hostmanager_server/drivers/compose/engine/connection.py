"""Connections to the Docker Engine that its environment names."""

from __future__ import annotations

import json
import os
import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import docker
import requests
import requests.adapters
import urllib3
import urllib3.connection
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import ContextNotFound, create_api_error_from_http_exception
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from docker.utils import kwargs_from_env

from hostmanager_server.drivers.compose.engine.engine_errors import EngineError, explain

__all__ = ["CALL_TIMEOUT", "Connection", "EngineError", "EngineEventStream", "connect", "dial", "explain"]

CALL_TIMEOUT = 10  # s without a byte of answer


def endpoint() -> tuple[str | None, TLSConfig | bool]:
    """The address of the engine (None: the default socket), with the TLS to use, as the docker CLI finds it:
    DOCKER_HOST with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH; else the context that DOCKER_CONTEXT or the
    CLI's config file names. Raises DockerException for what is named but cannot be used."""
    if os.environ.get("DOCKER_HOST"):
        found = kwargs_from_env()
        return found.get("base_url"), found.get("tls", False)
    # A context that is not there must not turn into the default engine: that is another one.
    name = os.environ.get("DOCKER_CONTEXT") or None
    if ContextAPI.get_context(name) is None:
        raise ContextNotFound(name or "of the docker config file")
    context = ContextAPI.kwargs_from_context(name)
    return context.get("base_url"), context.get("tls", False)


def connect() -> Connection:
    """A connection that is ready for calls, each of which waits at most CALL_TIMEOUT s for an answer.

    Raises requests.RequestException or DockerException; `explain` makes a sentence of either.
    """
    connection = Connection(*endpoint())
    try:
        connection.negotiate(CALL_TIMEOUT)
    except BaseException:
        connection.close()
        raise
    return connection


def dial() -> Connection:
    """A connection with which nothing was asked yet: call `negotiate` first. Raises DockerException."""
    return Connection(*endpoint())


class Connection(docker.APIClient):
    """A client of the engine that another thread can cut off, whatever is being waited for.

    The constructor asks the engine nothing. `negotiate` comes before any other call.
    """

    def __init__(self, base_url: str | None = None, tls: TLSConfig | bool = False) -> None:
        if base_url and base_url.startswith("ssh://"):
            raise EngineError(
                f"cannot use the Docker Engine at {base_url}: SSH is not supported; forward its socket"
                " (ssh -N -L /run/user/UID/engine.sock:/var/run/docker.sock HOST) and set DOCKER_HOST"
            )
        try:
            super().__init__(base_url, version=DEFAULT_DOCKER_API_VERSION, timeout=CALL_TIMEOUT, tls=tls)
        except ValueError as error:  # docker-py reads the logins in it, which `docker login` did not write so
            raise EngineError(
                f"cannot read the docker config file: {error}; log in again (docker login), or correct it"
            ) from error
        self._sockets = _Sockets()
        # docker-py made adapters of its own; these are the same, with sockets that can be got at.
        standard = self.get_adapter(self.base_url)
        if isinstance(standard, UnixHTTPAdapter):
            self.mount("http+docker://", _UnixAdapter(standard.socket_path, self._sockets))
        else:
            self.mount("http://", _TcpAdapter(self._sockets))
            self.mount("https://", _TcpAdapter(self._sockets))
        standard.close()

    def negotiate(self, within: float) -> None:
        """Agree on the newest API version that the engine has, in at most `within` s. Raises as calls do."""
        answer = self._ask("/_ping", within)
        self._version = answer.headers.get("Api-Version") or DEFAULT_DOCKER_API_VERSION

    def check(self, within: float) -> None:
        """Raise requests.RequestException when the engine does not answer in `within` s."""
        self._ask("/_ping", within)

    def follow(self, filters: dict[str, list[str]], within: float) -> EngineEventStream:
        """The engine's events from now on. Waits at most `within` s for the engine to begin with them
        (docker-py's `events` would wait for ever)."""
        url = f"/v{self.api_version}/events"
        response = self._ask(url, within, params={"filters": json.dumps(filters)}, stream=True)
        self._sockets.wait_for_ever(response.raw.fileno())
        return EngineEventStream(response)

    def inspect(self, container_id: str, within: float) -> dict[str, Any]:
        """What the engine has of a container. Raises requests.ReadTimeout when it does not say in `within` s:
        it waits for whoever starts, stops or removes the container just then."""
        document: dict[str, Any] = self._ask(
            f"/v{self.api_version}/containers/{container_id}/json", within
        ).json()
        return document

    def output(
        self, container_id: str, *, follow: bool, tail: int | None, since: str, within: float
    ) -> Iterator[bytes]:
        """What a container wrote, with a time before each message, as it comes: the last `tail` lines (None:
        all) from the moment `since` on (as in an answer; empty: from the beginning). Waits at most `within` s
        for the engine to begin; with `follow` the rest may take for ever."""
        params = {
            "stdout": "1",
            "stderr": "1",
            "timestamps": "1",
            "follow": str(int(follow)),
            "tail": "all" if tail is None else str(tail),
        }
        if since:
            params["since"] = _unix_time(since)
        url = f"/v{self.api_version}/containers/{container_id}/logs"
        response = self._ask(url, within, params=params, stream=True)
        if follow:
            self._sockets.wait_for_ever(response.raw.fileno())
        chunks: Iterator[bytes] = response.raw.stream(65536, decode_content=False)
        return chunks

    def abort(self) -> None:
        """Make every call that waits for the engine fail now, and every later one at once. Thread-safe."""
        self._sockets.shut()

    def _ask(self, path: str, within: float, **options: Any) -> requests.Response:
        answer = self.get(f"{self.base_url}{path}", timeout=within, **options)
        try:
            answer.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)  # raises it, with the engine's message
        return answer


def _unix_time(stamp: str) -> str:
    """A time of the engine's in seconds since 1970, with all of its digits, as the engine asks for it."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return f"{seconds}.{fraction or 0}"


class EngineEventStream:
    """Events of the engine, in its order. Iterating blocks; it ends when the engine ends it."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._response.iter_lines():
            if line:
                yield json.loads(line)


class _Sockets:
    """The sockets of one connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._shut = False

    def add(self, sock: socket.socket | None) -> None:
        """Raises ConnectionAbortedError when the connection was cut off before."""
        with self._lock:
            if sock is not None and not self._shut:
                self._open.add(sock)
                return
        raise ConnectionAbortedError("the connection was closed")

    def wait_for_ever(self, fd: int) -> None:
        with self._lock:
            for sock in self._open:
                if sock.fileno() == fd:
                    sock.settimeout(None)

    def shut(self) -> None:
        with self._lock:
            self._shut = True
            for sock in self._open:
                with suppress(OSError):  # it was closed by its peer or by us
                    # Not the method of an SSLSocket: that one would take TLS away under a reader's feet.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _UnixConnection(UnixHTTPConnection):
    sockets: _Sockets

    def connect(self) -> None:
        try:
            super().connect()
        except OSError as error:
            error.filename = self.unix_socket  # which no error of connect(2) says
            raise
        self.sockets.add(self.sock)


class _UnixPool(UnixHTTPConnectionPool):
    sockets: _Sockets

    def _new_conn(self) -> urllib3.connection.HTTPConnection:
        connection = _UnixConnection(self.base_url, self.socket_path, CALL_TIMEOUT)
        connection.sockets = self.sockets
        return connection


class _UnixAdapter(UnixHTTPAdapter):
    def __init__(self, path: str, sockets: _Sockets) -> None:
        super().__init__(f"http+unix://{path}", CALL_TIMEOUT)
        self._pool = _UnixPool("http+docker://localhost", path, CALL_TIMEOUT)
        self._pool.sockets = sockets

    def get_connection(self, url: bytes | str, proxies: object = None) -> UnixHTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


class _TcpAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, sockets: _Sockets) -> None:
        self._pool_classes = _pool_classes(sockets)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, *args: Any, **options: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self._pool_classes
        return manager


def _pool_classes(sockets: _Sockets) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """By scheme. urllib3 makes the pools and their connections, so they cannot be handed the sockets."""

    class Plain(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class Encrypted(urllib3.connection.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.add(self.sock)

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}
