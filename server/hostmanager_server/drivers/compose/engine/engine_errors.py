"""Error messages for a Docker Engine that the daemon cannot use."""

from __future__ import annotations

import errno
import getpass
import http.client
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import urllib3
from docker.errors import APIError, ContextNotFound, DockerException, TLSParameterError

_TIMEOUTS = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError, BlockingIOError)
_DISCONNECTS = (
    ConnectionError,
    http.client.HTTPException,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.ProtocolError,
)
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


class EngineError(DockerException):
    """An engine that cannot be used; the message holds the complete reason."""


def explain(error: BaseException) -> str:
    """Return why the Docker Engine cannot be used, and the remedy.

    The libraries wrap the reason several times over, so the search covers every cause of `error`.
    """
    causes = list(_causes(error))
    location = _location(causes)
    for cause in causes:
        text = _explain_docker_error(cause)
        if text is not None:
            return text
    for cause in causes:
        text = _explain_system_error(cause, location)
        if text is not None:
            return text
    # Last, because the libraries use these classes also for errors that the system describes better.
    if any(isinstance(cause, _TIMEOUTS) for cause in causes):
        return (
            f"cannot use the Docker Engine{location}: the engine does not answer; see its log"
            " (journalctl -u docker), or restart it (systemctl restart docker)"
        )
    if any(isinstance(cause, _DISCONNECTS) for cause in causes):
        return (
            f"cannot use the Docker Engine{location}: the engine closed the connection, because it stops or"
            " restarts; if it does not come back, see its log (journalctl -u docker)"
        )
    return f"cannot use the Docker Engine{location}: {str(error) or type(error).__name__}"


def _explain_docker_error(error: BaseException) -> str | None:
    match error:
        case EngineError():
            return str(error)
        case APIError():
            explanation = error.explanation or str(error)
            if "HTTP request to an HTTPS server" in explanation:
                explanation += (
                    "; set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory of its certificates"
                )
            return f"the Docker Engine refused with {error.status_code}: {explanation.strip()}"
        case ContextNotFound():
            return (
                f"cannot find the Docker Engine: {error}; see `docker context ls`, then choose one with"
                " `docker context use` or unset DOCKER_CONTEXT"
            )
        case TLSParameterError():
            return f"cannot use TLS with the Docker Engine: {error.msg}; check DOCKER_CERT_PATH"
        case _:
            return None


def _explain_system_error(error: BaseException, location: str) -> str | None:
    match error:
        case FileNotFoundError():
            return (
                f"cannot find a Docker Engine{location}: the socket does not exist; install it"
                " (package docker.io), start it (systemctl start docker), or set DOCKER_HOST to its address"
            )
        case PermissionError():
            return (
                f"cannot use the Docker Engine{location}: permission denied; add user {_user()!r} to group"
                f" 'docker' (usermod -aG docker {_user()}) and restart this daemon, or run it as root"
            )
        case ConnectionRefusedError():
            return (
                f"cannot reach the Docker Engine{location}: the engine does not run; start it"
                " (systemctl start docker)"
            )
        case ssl.SSLError():
            return (
                f"cannot use TLS with the Docker Engine{location}: {error.reason or error};"
                " check DOCKER_HOST, DOCKER_TLS_VERIFY and the certificates in DOCKER_CERT_PATH"
            )
        case socket.gaierror():
            return (
                f"cannot resolve the host of the Docker Engine{location}: {error.strerror}; check DOCKER_HOST"
            )
        case OSError() if error.errno in _UNREACHABLE:
            return (
                f"cannot reach the Docker Engine{location}: {error.strerror};"
                " check the network and DOCKER_HOST"
            )
        case _:
            return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all its causes, each once."""
    visited: set[int] = set()
    queue: list[object] = [error]
    while queue:
        cause = queue.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in visited:
            visited.add(id(cause))
            yield cause
            queue += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def _location(causes: list[BaseException]) -> str:
    """Return the engine's address in the errors, as " at ADDRESS", or ""."""
    for cause in causes:
        if isinstance(cause, OSError) and isinstance(cause.filename, str):
            return f" at {cause.filename}"
    for cause in causes:
        request = getattr(cause, "request", None)
        parts = urlsplit(getattr(request, "url", None) or "")
        if parts.scheme in ("http", "https"):
            return f" at {parts.netloc}"
    return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "of this daemon"
