"""The processes at the other ends of the unix sockets that this process has accepted.

gRPC shows no credentials of its clients, but the kernel keeps them with each accepted socket (SO_PEERCRED in
unix(7)).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from hostmanager.values import dataclass

# With more descriptors, asking for each would take longer than the request itself.
MOST_DESCRIPTORS = 2000
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_FAMILY = struct.Struct("H")  # the begin of struct sockaddr_un

_libc = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """The process that connected, and its user, at the time of the connect."""

    pid: int
    uid: int


def connected_peers() -> frozenset[PeerCredentials] | None:
    """Return the processes that are connected to the unix sockets of this process; None if unknown."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return None
    if len(names) > MOST_DESCRIPTORS:
        return None
    value, size, own = ctypes.create_string_buffer(_CREDENTIALS.size), ctypes.c_uint(), os.getpid()
    found, ask, by_reference = set(), _libc.getsockopt, ctypes.byref(size)
    for descriptor in map(int, names):
        size.value = _CREDENTIALS.size
        if ask(descriptor, socket.SOL_SOCKET, socket.SO_PEERCRED, value, by_reference):
            continue  # no socket
        pid, uid, _ = _CREDENTIALS.unpack(value.raw)
        if pid > 0 and pid != own and _is_accepted(descriptor):
            found.add(PeerCredentials(pid, uid))
    return frozenset(found)


def _is_accepted(descriptor: int) -> bool:
    """Return whether a socket has the name of a listening unix socket, and does not listen."""
    name, size = ctypes.create_string_buffer(128), ctypes.c_uint(128)
    if _libc.getsockname(descriptor, name, ctypes.byref(size)) or size.value <= _FAMILY.size:
        return False
    listens, size = ctypes.c_int(), ctypes.c_uint(4)
    asked = (socket.SOL_SOCKET, socket.SO_ACCEPTCONN, ctypes.byref(listens), ctypes.byref(size))
    (family,) = _FAMILY.unpack_from(name)
    return family == socket.AF_UNIX and not _libc.getsockopt(descriptor, *asked) and not listens.value
