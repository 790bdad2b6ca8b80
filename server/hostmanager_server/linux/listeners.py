"""Processes that listen on TCP ports of this machine, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress

from hostmanager.values import dataclass

_LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class PortHolder:
    """A process with a listening socket; `environ` is empty where this process may not read it."""

    pid: int
    name: str
    environ: bytes


def listening_sockets() -> dict[int, set[str]]:
    """Return the inodes of all listening TCP sockets, by port."""
    found: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table, encoding="ascii") as file:
            next(file, "")  # the heading
            for line in file:
                fields = line.split()
                if fields[3] == _LISTEN:
                    found.setdefault(int(fields[1].rpartition(":")[2], 16), set()).add(fields[9])
    return found


def holders_of(inodes: set[str]) -> list[PortHolder]:
    """Return the processes that hold one of the sockets, as far as this process may see them."""
    links = {f"socket:[{inode}]" for inode in inodes}
    return [_describe(int(pid)) for pid in os.listdir("/proc") if pid.isdecimal() and _holds(pid, links)]


def _holds(pid: str, links: set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:  # ended, or another user's
        return False
    for name in names:
        with suppress(OSError):
            if os.readlink(f"{folder}/{name}") in links:
                return True
    return False


def _describe(pid: int) -> PortHolder:
    name, environ = "?", b""
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        name = file.read().strip()
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        environ = file.read()
    return PortHolder(pid, name, environ)
