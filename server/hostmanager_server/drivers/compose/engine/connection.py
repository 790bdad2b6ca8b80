"""Connections to the Docker Engine named by the environment."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import docker
import requests
from docker.auth import encode_header
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import ContextNotFound, create_api_error_from_http_exception
from docker.tls import TLSConfig
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env, parse_repository_tag

from hostmanager_server.drivers.compose.engine.engine_errors import EngineError, explain
from hostmanager_server.drivers.compose.engine.transport import (
    CALL_TIMEOUT,
    OpenSockets,
    TcpAdapter,
    UnixAdapter,
    shut_down,
)

__all__ = [
    "CALL_TIMEOUT",
    "Connection",
    "EngineError",
    "EngineEventStream",
    "connect",
    "explain",
    "new_connection",
]


def endpoint() -> tuple[str | None, TLSConfig | bool]:
    """Return the engine's address (None: default socket) and TLS settings.

    The search is that of the docker CLI.

    DOCKER_HOST with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH comes first, then the context named by
    DOCKER_CONTEXT or the CLI's config file. Raises DockerException for a named context or certificate that
    cannot be used.
    """
    if os.environ.get("DOCKER_HOST"):
        found = kwargs_from_env()
        return found.get("base_url"), found.get("tls", False)
    # A missing context must not fall back to the default engine, which is another engine.
    name = os.environ.get("DOCKER_CONTEXT") or None
    if ContextAPI.get_context(name) is None:
        raise ContextNotFound(name or "of the docker config file")
    context = ContextAPI.kwargs_from_context(name)
    return context.get("base_url"), context.get("tls", False)


def connect() -> Connection:
    """Return a connection ready for calls.

    Each call waits at most CALL_TIMEOUT s for an answer.

    Raises requests.RequestException or DockerException; `explain` turns either into a sentence.
    """
    connection = new_connection()
    try:
        connection.negotiate(CALL_TIMEOUT)
    except BaseException:
        connection.close()
        raise
    return connection


def new_connection() -> Connection:
    """Return a connection that has sent no request yet; call `negotiate` first.

    Raises DockerException.
    """
    base_url, tls = endpoint()
    return Connection(base_url, tls=tls)


class Connection(docker.APIClient):
    """A client of the engine; another thread can abort every call, even a blocked one.

    The constructor sends no request. Call `negotiate` before any other method.
    """

    def __init__(self, base_url: str | None = None, *, tls: TLSConfig | bool = False) -> None:
        if base_url and base_url.startswith("ssh://"):
            raise EngineError(
                f"cannot use the Docker Engine at {base_url}: SSH is not supported; forward its socket"
                " (ssh -N -L /run/user/UID/engine.sock:/var/run/docker.sock HOST) and set DOCKER_HOST"
            )
        try:
            super().__init__(base_url, version=DEFAULT_DOCKER_API_VERSION, timeout=CALL_TIMEOUT, tls=tls)
        except ValueError as error:  # docker-py reads logins there that `docker login` did not write
            raise EngineError(
                f"cannot read the docker config file: {error}; log in again (docker login), or correct it"
            ) from error
        self._sockets = OpenSockets()
        # docker-py made its own adapters; these replacements give access to their sockets.
        standard = self.get_adapter(self.base_url)
        if isinstance(standard, UnixHTTPAdapter):
            self.mount("http+docker://", UnixAdapter(standard.socket_path, self._sockets))
        else:
            self.mount("http://", TcpAdapter(self._sockets))
            self.mount("https://", TcpAdapter(self._sockets))
        standard.close()

    def negotiate(self, within: float) -> None:
        """Agree on the newest API version of the engine, in at most `within` s.

        Raises as calls do.
        """
        answer = self._fetch("/_ping", within)
        self._version = answer.headers.get("Api-Version") or DEFAULT_DOCKER_API_VERSION

    def check_alive(self, within: float) -> None:
        """Raise requests.RequestException without an answer within `within` s."""
        self._fetch("/_ping", within)

    def stream_events(self, filters: Mapping[str, list[str]], within: float) -> EngineEventStream:
        """Return the engine's events from now on.

        Waits at most `within` s for the stream to begin.

        docker-py's `events` would wait without limit.
        """
        url = f"/v{self.api_version}/events"
        response = self._fetch(url, within, params={"filters": json.dumps(filters)}, stream=True)
        return EngineEventStream(response, self._sockets.remove_timeout(response.raw.fileno()))

    def inspect(self, container_id: str, within: float) -> dict[str, Any]:
        """Return the engine's document of a container (`GET /containers/{id}/json`).

        Raises requests.ReadTimeout without an answer within `within` s: the engine holds the answer back
        while another client starts, stops or removes the container.
        """
        document: dict[str, Any] = self._fetch(
            f"/v{self.api_version}/containers/{container_id}/json", within
        ).json()
        return document

    def start_container(self, container_id: str, within: float) -> None:
        """Start a container, and wait at most `within` s for the engine.

        A container that runs already stays as it is.
        """
        url = f"{self.base_url}/v{self.api_version}/containers/{container_id}/start"
        _raise_for_status(self.post(url, timeout=within))

    def pull_image(
        self, image: str, *, platform: str, credentials: dict[str, str | None], within: float
    ) -> None:
        """Pull an image, and wait for the end, however long the pull makes progress.

        `within` is the longest time (s) without a message of the engine. Raises EngineError, too.
        """
        repository, tag = parse_repository_tag(image)
        params = {"fromImage": repository, "tag": tag or "latest"}
        if platform:
            params["platform"] = platform
        headers = {"X-Registry-Auth": encode_header(credentials)} if credentials else {}
        url = f"{self.base_url}/v{self.api_version}/images/create"
        answer = self.post(url, params=params, headers=headers, timeout=within, stream=True)
        _raise_for_status(answer)
        for line in answer.iter_lines():
            if line and (error := json.loads(line).get("error")):
                raise EngineError(f"cannot pull {image}: {error}")

    def stream_output(
        self, container_id: str, *, follow: bool, tail: int | None, since: str, within: float
    ) -> Iterator[bytes]:
        """Return the output of a container, with a time before each message.

        `tail` is the number of last lines (None: all lines). `since` is a time as in an answer of the engine;
        output before that time is left out (empty: from the beginning). Waits at most `within` s for the
        engine to begin; with `follow` the stream may last as long as the container.
        """
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
        response = self._fetch(url, within, params=params, stream=True)
        if follow:
            self._sockets.remove_timeout(response.raw.fileno())
        chunks: Iterator[bytes] = response.raw.stream(65536, decode_content=False)
        return chunks

    def abort(self) -> None:
        """Make every waiting call fail now, and every later call at once. Thread-safe."""
        self._sockets.shut_down()

    def _fetch(self, path: str, within: float, **options: Any) -> requests.Response:
        answer = self.get(f"{self.base_url}{path}", timeout=within, **options)
        _raise_for_status(answer)
        return answer


def _raise_for_status(answer: requests.Response) -> None:
    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        create_api_error_from_http_exception(error)  # raises an APIError with the engine's message


def _unix_time(stamp: str) -> str:
    """Convert an engine time to seconds since 1970 with all its digits.

    The `since` option has this format.
    """
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return f"{seconds}.{fraction or 0}"


class EngineEventStream:
    """Events of the engine, in its order.

    Iterating blocks, and ends when the engine ends the stream.
    """

    def __init__(self, response: requests.Response, sock: socket.socket | None) -> None:
        self._response = response
        self._socket = sock

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._response:
            for line in self._response.iter_lines():
                if line:
                    yield json.loads(line)

    def close(self) -> None:
        """End the iteration, also of another thread that waits for an event."""
        if self._socket is not None:
            shut_down(self._socket)
