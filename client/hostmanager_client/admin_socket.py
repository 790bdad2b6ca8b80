"""The socket for admins: where a daemon answers when its first socket takes no more connections."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from hostmanager_client.address import LONGEST_SOCKET_PATH, SOCKET_NAME, Address

PATIENCE = 1.0  # s; a daemon that is busy, or stands still, may have room all the same
# What a client of HTTP/2 says first (RFC 9113, section 3.4): the preface, and a SETTINGS frame that is empty.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def admin_address(address: Address) -> Address | None:
    """Where the daemon at a unix socket keeps places for admins; None over TCP, and for a path without
    room."""
    if not address.is_unix:
        return None
    path = Path(address.path)
    name = "admin.sock" if path.name == SOCKET_NAME else f"{path.stem}-admin{path.suffix}"
    found = str(path.with_name(name))
    return Address(path=found) if len(os.fsencode(found)) <= LONGEST_SOCKET_PATH else None


def address_with_capacity(address: Address) -> Address:
    """The address, or that of the socket for admins when only that one takes a connection."""
    reserve = admin_address(address)
    if reserve is None or not _is_socket(reserve) or _takes_connections(address):
        return address
    return reserve if _takes_connections(reserve) else address


def _is_socket(address: Address) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(address.path).st_mode)
    except OSError:
        return False


def _takes_connections(address: Address) -> bool:
    """Whether the daemon keeps a connection: a gRPC server that has no room accepts it, and closes it at
    once."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PATIENCE)
        try:
            probe.connect(address.path)
            probe.sendall(PREFACE)
            return bool(probe.recv(1))
        except TimeoutError:
            return True
        except OSError:
            return False
