"""Addresses to listen on: how they are written, and the locks of unix sockets."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hostmanager_server.linux.lock_file import HeldError, take_lock_file
from hostmanager_server.linux.trusted_paths import Trust, UntrustedError, make_folder

log = logging.getLogger(__name__)

LONGEST_SOCKET_PATH = 107  # bytes; sockaddr_un.sun_path, unix(7)


class AddressError(Exception):
    """An address cannot be listened on; the text says why and what to do."""


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

    def for_admins(self) -> Listen | None:
        """The socket whose connections are kept back for admins; None over TCP, and for a path without room.

        The name is admin.sock next to hostmanager.sock, as the client knows it, NAME-admin.sock next to
        others.
        """
        if self.socket is None:
            return None
        stem, suffix = self.socket.stem, self.socket.suffix
        path = self.socket.with_name("admin.sock" if stem == "hostmanager" else f"{stem}-admin{suffix}")
        return Listen(f"unix:{path}", path) if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH else None


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
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise AddressError(f"cannot listen on {path}: a socket path has at most 107 bytes; use a shorter one")
    return Listen(f"unix:{path}", path)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def lock_socket(path: Path, trust: Trust) -> int:
    """Return the descriptor of the lock on a socket that is about to be made. Raises AddressError."""
    try:
        make_folder(path.parent)
        check_socket_folder(path, trust)
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressError(
                f"cannot listen on unix:{path}: a file that is no socket is there; move it away"
            )
        # gRPC unlinks a socket that is in its way, even one that another daemon serves: hence the lock.
        return take_lock_file(Path(f"{path}.lock"), any_owner=trust.override)
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


def why_not(listen: Listen) -> str:
    """Why gRPC may have refused to listen there."""
    if listen.is_unix:
        return "the directory cannot be written, or is not there"
    return "the address is in use, or not one of this machine; choose another port"
