"""The protocol by which a service tells the service manager that started it how it is: sd_notify(3).

One datagram to the socket that $NOTIFY_SOCKET names, of lines NAME=value. Nobody answers.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

# What systemd.exec(5) and its relatives tell one process about itself. Its children must know nothing of it:
# one that spoke on the daemon's socket, or took descriptors for its own, would pass for the daemon.
PRIVATE_VARIABLES = frozenset({
    "CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY", "FDSTORE", "INVOCATION_ID",
    "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LOGS_DIRECTORY",
    "MAINPID", "MANAGERPID", "MANAGERPIDFDID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "SYSTEMD_EXEC_PID", "WATCHDOG_PID",
    "WATCHDOG_USEC",
})  # fmt: skip


def without_private_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the environment that another program may know."""
    return {name: value for name, value in environ.items() if name not in PRIVATE_VARIABLES}


READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"

# The kernel's queue of datagrams is full, or systemd is just executing itself anew: it may be told later.
_PASSING = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED, errno.ENOENT})


def status(text: str) -> str:
    """One line that says in words how the service is."""
    return f"STATUS={text}".replace("\n", " ")


def reloading() -> str:
    """The service begins to read its configuration anew, or to execute itself; READY ends that."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def extend_timeout(seconds: float) -> str:
    """Starting, or stopping, takes at least this much longer from now."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """How long the service manager waits for a sign of life from process `pid` before it ends it, s. None: it
    expects none, or expects it from another process (sd_watchdog_enabled(3))."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / 1e6


@dataclass(frozen=True, slots=True)
class NotifySocket:
    """Where a service manager listens."""

    address: bytes
    _socket: socket.socket

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> NotifySocket | None:
        """The one that started this process; None when there is none."""
        name = environ.get("NOTIFY_SOCKET", "")
        if not name:
            return None
        if name[0] not in "/@":
            log.warning("the service manager is told nothing: NOTIFY_SOCKET is no unix socket: %s", name)
            return None
        address = os.fsencode(name)
        if address[:1] == b"@":  # an abstract one
            address = b"\0" + address[1:]
        return cls(address, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))

    def send(self, *lines: str, descriptors: Sequence[int] = ()) -> bool:
        """Say all these at once, with copies of descriptors. False: not now, but it may go later. Never
        waits."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            self._socket.sendmsg(
                ["\n".join(lines).encode()],
                ancillary if descriptors else [],
                socket.MSG_DONTWAIT,
                self.address,
            )
        except OSError as error:
            if error.errno in _PASSING:
                return False
            log.warning("cannot tell the service manager %s: %s", lines[0], error.strerror)
        return True

    def close(self) -> None:
        self._socket.close()
