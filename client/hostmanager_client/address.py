"""Addresses of daemons: parsing, the default address, ownership checks.

docs/reference/python-client.md states the rule of the default address. The server has a copy of the rule, as
neither package imports the other.
"""

from __future__ import annotations

import os
import stat

from hostmanager.values import dataclass

from hostmanager_client.errors import InvalidAddress, PermissionDenied

TYPE_CHECKING = False  # short commands do without the packages `collections` and `re`
if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS_VARIABLE = "HOSTMANAGER_ADDRESS"
SOCKET_NAME = "hostmanager.sock"
SYSTEM_FOLDER = "/run/hostmanager"
# The kernel's limit: sun_path holds 108 bytes with the final NUL.
LONGEST_SOCKET_PATH = 107
HOW_TO_WRITE = "write unix:/path/of/the.sock, a path with a '/', or HOST:PORT"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; `path` is empty for TCP, `host` for a unix socket."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """True for a unix socket."""
        return bool(self.path)

    @property
    def grpc_target(self) -> str:
        """The target string for gRPC; percent signs in the path are encoded, as gRPC decodes them."""
        if self.path:
            from urllib.parse import quote

            return f"unix:{quote(os.fsencode(self.path))}"
        return f"dns:///{self}"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse `unix:///path`, `unix:path`, a plain path with a '/', or `host:port`.

    Nothing in a path is decoded. A relative path starts at the working directory, `~` is the home directory.
    Raises InvalidAddress.
    """
    if text[:1].isspace():
        raise InvalidAddress(
            f"cannot use {text!r} as an address: the address starts with a blank; remove the blank"
        )
    if text.startswith("unix-abstract:") or text.removeprefix("unix:").startswith("@"):
        raise InvalidAddress(
            f"cannot use {text!r} as an address: the daemon does not serve abstract sockets; {HOW_TO_WRITE} "
            "(./@NAME for a file with such a name)"
        )
    if _is_url(text):
        raise InvalidAddress(f"cannot use {text!r} as an address: URLs are not supported; {HOW_TO_WRITE}")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
            if not path.startswith("/"):
                raise InvalidAddress(
                    f"cannot use {text!r} as an address: after unix:// comes an absolute path, as in "
                    f"unix:///{path}"
                )
        return _unix(text, path)
    if "/" in text:
        return _unix(text, text)
    if text[-1:].isspace():
        raise InvalidAddress(
            f"cannot use {text!r} as an address: the address ends with a blank; remove the blank"
        )
    return _tcp(text)


def _is_url(text: str) -> bool:
    """Return whether the text begins with a scheme other than unix; the server has a copy of the rule."""
    scheme, colon, _ = text.partition("://")
    if not colon or scheme == "unix" or not scheme.isascii() or not scheme[:1].isalpha():
        return False
    return scheme.replace("+", "").replace(".", "").replace("-", "").isalnum()


def _unix(text: str, path: str) -> Address:
    if not path or "\0" in path or path.endswith("/"):
        raise InvalidAddress(f"cannot use {text!r} as an address: the path names no socket; {HOW_TO_WRITE}")
    if path.rpartition("/")[2] in (".", ".."):
        raise InvalidAddress(f"cannot use {text!r} as an address: the path names a directory; {HOW_TO_WRITE}")
    absolute = _absolute(os.path.expanduser(path))
    if "," in absolute:
        raise InvalidAddress(
            f"cannot use {absolute!r} as an address: gRPC splits an address at a comma; "
            "use a path without a comma"
        )
    if len(os.fsencode(absolute)) > LONGEST_SOCKET_PATH:
        raise InvalidAddress(
            f"cannot use {absolute!r} as an address: the path of a unix socket is at most "
            f"{LONGEST_SOCKET_PATH} bytes long; use a shorter path"
        )
    return Address(path=absolute)


def _absolute(path: str) -> str:
    """Return the path from the root, without `.` and repeated slashes; `..` stays."""
    if path.startswith("/") and not {"", "."} & set(path[1:].split("/")):
        return path
    from pathlib import Path

    return str(Path(path).absolute())


def _tcp(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidAddress(
            f"cannot use {text!r} as an address: write an IPv6 host in brackets, as in [::1]:8765"
        )
    if not colon or not host or any(c in "[]" or c.isspace() or not c.isprintable() for c in host):
        raise InvalidAddress(f"cannot use {text!r} as an address: {HOW_TO_WRITE}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5) or not 1 <= int(port) <= 65535:
        raise InvalidAddress(f"cannot use {text!r} as an address: {port!r} is not a port (1 to 65535)")
    return Address(host=host, port=int(port))


def default_address(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Address:
    """Return the address of this user's daemon.

    The address is `$HOSTMANAGER_ADDRESS` if set; else `hostmanager.sock` in /run/hostmanager for root, in
    $XDG_RUNTIME_DIR/hostmanager for other users, or in /tmp/hostmanager-UID if that variable is unset. If
    that socket does not exist, root tries the user socket, and other users try the system socket.

    The search skips a folder in which another user may have created the socket, and raises PermissionDenied
    if no safe socket is left. An address given by the user is not checked in this way.
    """
    environ = os.environ if environ is None else environ
    if (given := environ.get(ADDRESS_VARIABLE, "")).strip():
        return parse_address(given)
    uid = os.geteuid() if uid is None else uid
    candidates = _candidates(environ, uid)
    refused = ""
    for path in candidates:
        if not _is_socket(path):
            continue
        # only root can create that folder
        if os.path.dirname(path) == SYSTEM_FOLDER or not (why := _not_ours(path, uid)):
            return Address(path=path)
        refused = refused or (
            f"cannot use {path!r} as the address: {why}, so another user may listen there; remove "
            f"the socket, or name the address with --address or {ADDRESS_VARIABLE} to use that daemon"
        )
    if refused:
        raise PermissionDenied(refused)
    return Address(path=candidates[0])


def _candidates(environ: Mapping[str, str], uid: int) -> list[str]:
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    private = f"{runtime.rstrip('/')}/hostmanager" if runtime else f"/tmp/hostmanager-{uid}"  # noqa: S108
    directories = [SYSTEM_FOLDER, private] if uid == 0 else [private, SYSTEM_FOLDER]
    return [f"{directory}/{SOCKET_NAME}" for directory in directories]


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _not_ours(socket: str, uid: int) -> str:
    """Return why another user may own the socket; empty if only root and `uid` can create it."""
    folder = os.path.dirname(socket)
    for path in (folder, socket):
        try:
            status = os.lstat(path)
        except OSError as error:
            return f"{path!r} cannot be inspected: {error.strerror}"
        if stat.S_ISLNK(status.st_mode):
            return f"{path!r} is a symbolic link"
        if status.st_uid not in (0, uid):
            return f"{path!r} belongs to user {status.st_uid}"
        if path == folder and status.st_mode & 0o022:
            return f"{path!r} is writable by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
