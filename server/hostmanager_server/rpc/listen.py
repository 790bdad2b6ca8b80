"""Listen addresses: parsing, and the locks and directories of unix sockets."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import stat
from pathlib import Path
from urllib.parse import quote

from hostmanager.values import dataclass

from hostmanager_server.linux.lock_file import HeldError, take_lock_file
from hostmanager_server.linux.trusted_paths import Trust, UntrustedError, make_private_directory

log = logging.getLogger(__name__)

_OTHER_SCHEME = r"(?!unix:)[A-Za-z][A-Za-z0-9+.-]*://"  # the client has a copy
LONGEST_SOCKET_PATH = 107  # bytes; sockaddr_un.sun_path, unix(7)


class AddressError(Exception):
    """The daemon cannot listen on an address; the text has the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address to serve on: the path of a unix socket, or host and port of a loopback address."""

    text: str
    socket: Path | None = None

    @property
    def is_unix(self) -> bool:
        """Whether the address is a unix socket."""
        return self.socket is not None

    @property
    def grpc_address(self) -> str:
        """The address as gRPC reads it, much like a URI: gRPC decodes percent signs, and stops at `#`."""
        return self.text if self.socket is None else f"unix:{quote(os.fsencode(self.socket))}"

    def for_admins(self) -> ListenAddress | None:
        """Return the socket reserved for admins; None over TCP, and when its path would be too long.

        The client derives the same name: admin.sock next to hostmanager.sock, NAME-admin.sock next to
        NAME.sock.
        """
        if self.socket is None:
            return None
        stem, suffix = self.socket.stem, self.socket.suffix
        path = self.socket.with_name("admin.sock" if stem == "hostmanager" else f"{stem}-admin{suffix}")
        return ListenAddress(f"unix:{path}", path) if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH else None


def parse_listen(text: str, *, insecure: bool) -> ListenAddress:
    """Parse `unix:PATH`, a path with a slash, or `HOST:PORT`. Raises AddressError.

    A path is a file name without any encoding, relative to the working directory; `~` is the home directory.
    """
    if text[:1].isspace():
        raise AddressError(f"cannot listen on {text!r}: the address starts with a blank; remove the blank")
    if text.startswith("unix-abstract:") or text.removeprefix("unix:").startswith("@"):
        raise AddressError(
            f"cannot listen on {text!r}: an abstract socket has no owner and no mode, so every user of this "
            "machine could reach it; use unix:PATH (./@NAME for a file of such a name)"
        )
    if re.match(_OTHER_SCHEME, text):
        raise AddressError(
            f"cannot listen on {text!r}: URLs are not supported; give unix:PATH, or HOST:PORT such as "
            "127.0.0.1:5555"
        )
    if text.startswith("unix:") or "/" in text:
        return _parse_socket(text)
    if text[-1:].isspace():
        raise AddressError(f"cannot listen on {text!r}: the address ends with a blank; remove the blank")
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"cannot listen on {text!r}: write an IPv6 host in brackets, as in [::1]:5555")
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
            "add --insecure to accept this, or use a unix socket"
        )
    return ListenAddress(f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}")


def _parse_socket(text: str) -> ListenAddress:
    name = text.removeprefix("unix:")
    if name.startswith("//"):  # from unix:///path
        name = name.removeprefix("//") if text.startswith("unix:") else name
        if not name.startswith("/"):
            raise AddressError(
                f"cannot listen on {text!r}: after unix:// comes an absolute path, as in unix:///{name}"
            )
    if not name or name.endswith("/") or "\0" in name:
        raise AddressError(f"cannot listen on {text!r}: no socket is named; give unix:PATH, without a NUL")
    if name.rpartition("/")[2] in (".", ".."):
        raise AddressError(f"cannot listen on {text!r}: the path names a directory; give that of a socket")
    path = Path(os.path.expanduser(name)).absolute()
    if "," in str(path):
        raise AddressError(
            f"cannot listen on {path}: gRPC clients split an address at a comma; use a path without one"
        )
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise AddressError(f"cannot listen on {path}: a socket path has at most 107 bytes; use a shorter one")
    return ListenAddress(f"unix:{path}", path)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def lock_socket(path: Path, trust: Trust) -> int:
    """Take the lock of a socket before creating the socket, and return its descriptor.

    Raises AddressError when another daemon holds the lock, or when the directory cannot be used.
    """
    try:
        make_private_directory(path.parent)
        check_socket_folder(path, trust)
        if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressError(
                f"cannot listen on unix:{path}: the path exists and is not a socket; move the file away"
            )
        # gRPC unlinks any socket at the path, even one that another daemon serves: hence the lock.
        return take_lock_file(Path(f"{path}.lock"), any_owner=trust.override)
    except HeldError as error:
        raise AddressError(
            f"cannot listen on unix:{path}: {error} serves there; stop it, or use another --listen"
        ) from error
    except OSError as error:
        why = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
        raise AddressError(f"cannot listen on unix:{path}: {why}") from error


def check_socket_folder(socket: Path, trust: Trust) -> None:
    """Log which other users could replace a socket. Raises AddressError if the trust rules forbid it."""
    try:
        for warning in trust.check(socket.parent):
            log.warning("the directory of the socket %s: %s", socket, warning)
    except UntrustedError as error:
        raise AddressError(f"cannot listen on unix:{socket}: {error}") from error


def likely_cause(listen: ListenAddress) -> str:
    """Return the likely reason why gRPC cannot listen on an address; gRPC itself gives none."""
    if listen.is_unix:
        return "the directory is missing, or not writable"
    return "the address is in use, or belongs to another machine; choose another port"
