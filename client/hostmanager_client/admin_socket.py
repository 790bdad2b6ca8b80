"""The admin socket, on which the daemon answers when its main socket has no free connection."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from hostmanager_client.address import LONGEST_SOCKET_PATH, SOCKET_NAME, Address

PATIENCE = 1.0  # s; a busy or frozen daemon may still have a free connection
# The first bytes of an HTTP/2 client (RFC 9113, section 3.4): the preface and an empty SETTINGS frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def admin_address(address: Address) -> Address | None:
    """Return the address of the admin socket; None for TCP, and if the path would be too long."""
    if not address.is_unix:
        return None
    path = Path(address.path)
    name = "admin.sock" if path.name == SOCKET_NAME else f"{path.stem}-admin{path.suffix}"
    found = str(path.with_name(name))
    return Address(path=found) if len(os.fsencode(found)) <= LONGEST_SOCKET_PATH else None


def address_with_capacity(address: Address) -> Address:
    """Return the address, or the admin socket if only the admin socket accepts a connection."""
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
    """Return whether the daemon keeps a connection open.

    A gRPC server without a free connection accepts a further one and closes that at once.
    """
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
