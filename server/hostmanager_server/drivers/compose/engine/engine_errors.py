"""What an operator is told when the Docker Engine cannot be used."""

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

_ANSWERS_NOT = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError, BlockingIOError)
_HUNG_UP = (
    ConnectionError,
    http.client.HTTPException,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.ProtocolError,
)
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


class EngineError(DockerException):
    """The engine cannot be used, for a reason that the message says whole."""


def explain(error: BaseException) -> str:
    """A sentence for the operator: why the Docker Engine cannot be used, and what to do about it.

    The libraries wrap the reason several times over, so it is looked for in all that `error` came from.
    """
    links = list(_links(error))
    where = _where(links)
    for link in links:
        sentence = _of_docker(link)
        if sentence is not None:
            return sentence
    for link in links:
        sentence = _of_system(link, where)
        if sentence is not None:
            return sentence
    # Only now: these are said of what the system has better words for, too.
    if any(isinstance(link, _ANSWERS_NOT) for link in links):
        return (
            f"the Docker Engine{where} does not answer; see its log (journalctl -u docker), or restart it"
            " (systemctl restart docker)"
        )
    if any(isinstance(link, _HUNG_UP) for link in links):
        return (
            f"the Docker Engine{where} closed the connection: it is stopping or was restarted; when it does"
            " not come back, see its log (journalctl -u docker)"
        )
    return f"cannot use the Docker Engine{where}: {str(error) or type(error).__name__}"


def _of_docker(error: BaseException) -> str | None:
    match error:
        case EngineError():
            return str(error)
        case APIError():
            said = error.explanation or str(error)
            if "HTTP request to an HTTPS server" in said:
                said += "; set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory of its certificates"
            return f"the Docker Engine refused with {error.status_code}: {said.strip()}"
        case ContextNotFound():
            return (
                f"cannot find the Docker Engine: {error}; see `docker context ls`, then choose one with"
                " `docker context use` or unset DOCKER_CONTEXT"
            )
        case TLSParameterError():
            return f"cannot use TLS with the Docker Engine: {error.msg}; check DOCKER_CERT_PATH"
        case _:
            return None


def _of_system(error: BaseException, where: str) -> str | None:
    match error:
        case FileNotFoundError():
            return (
                f"there is no Docker Engine{where}; install it (package docker.io), start it"
                " (systemctl start docker), or set DOCKER_HOST to where it listens"
            )
        case PermissionError():
            return (
                f"no permission to use the Docker Engine{where}; add the user {_user()!r} to the group"
                f" 'docker' (usermod -aG docker {_user()}) and restart this daemon, or run it as root"
            )
        case ConnectionRefusedError():
            return f"the Docker Engine{where} does not run; start it (systemctl start docker)"
        case ssl.SSLError():
            return (
                f"no TLS with the Docker Engine{where}: {error.reason or error}; check DOCKER_HOST,"
                " DOCKER_TLS_VERIFY and the certificates in DOCKER_CERT_PATH"
            )
        case socket.gaierror():
            return f"the host of the Docker Engine{where} is not known: {error.strerror}; check DOCKER_HOST"
        case OSError() if error.errno in _UNREACHABLE:
            return f"no way to the Docker Engine{where}: {error.strerror}; check the network and DOCKER_HOST"
        case _:
            return None


def _links(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it came from, each once."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        link = queue.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            queue += [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]


def _where(links: list[BaseException]) -> str:
    """Where the engine was looked for, as far as the errors know."""
    for link in links:
        if isinstance(link, OSError) and isinstance(link.filename, str):
            return f" at {link.filename}"
    for link in links:
        request = getattr(link, "request", None)
        parts = urlsplit(getattr(request, "url", None) or "")
        if parts.scheme in ("http", "https"):
            return f" at {parts.netloc}"
    return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "of this daemon"
