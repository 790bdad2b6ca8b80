"""The notification protocol between a service and systemd: sd_notify(3).

A message is one datagram of lines NAME=value to the socket in $NOTIFY_SOCKET. The service manager sends no
reply.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence

from hostmanager.values import dataclass

_log = logging.getLogger(__name__)

# Variables that systemd sets for one process (systemd.exec(5) and related pages). Children must not inherit
# them: a child that wrote to the daemon's socket, or used its descriptors, would pass for the daemon.
PRIVATE_VARIABLES = frozenset({
    "CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY", "FDSTORE", "INVOCATION_ID",
    "JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LOGS_DIRECTORY",
    "MAINPID", "MANAGERPID", "MANAGERPIDFDID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
    "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "SYSTEMD_EXEC_PID", "WATCHDOG_PID",
    "WATCHDOG_USEC",
})  # fmt: skip


def without_private_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the variables that concern this process alone."""
    return {name: value for name, value in environ.items() if name not in PRIVATE_VARIABLES}


READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"

# Temporary errors: the datagram queue of the kernel is full, or systemd is re-executing itself.
_PASSING = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED, errno.ENOENT})


def status(text: str) -> str:
    """Return the line that describes the state of the service in words."""
    return f"STATUS={text}".replace("\n", " ")


def reloading() -> str:
    """Return the lines that announce a reload or a re-execution, which READY ends."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def extend_timeout(seconds: float) -> str:
    """Return the line that extends the time limit of a start or stop, from now."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the longest pause, in s, between two keep-alives of process `pid`.

    The service manager kills a service that pauses longer.

    Returns None when the service manager expects none, or expects it from another process
    (sd_watchdog_enabled(3)).
    """
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / 1e6


@dataclass(frozen=True, slots=True)
class NotifySocket:
    """The socket of the service manager."""

    address: bytes
    _socket: socket.socket

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> NotifySocket | None:
        """Return the socket of this process's service manager; None without one."""
        name = environ.get("NOTIFY_SOCKET", "")
        if not name:
            return None
        if name[0] not in "/@":
            _log.warning("cannot notify the service manager: NOTIFY_SOCKET is no unix socket: %s", name)
            return None
        address = os.fsencode(name)
        if address[:1] == b"@":  # an abstract socket
            address = b"\0" + address[1:]
        return cls(address, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))

    def send(self, *lines: str, descriptors: Sequence[int] = ()) -> bool:
        """Send lines and copies of descriptors; return False to try again later.

        All lines go in one message.

        Never waits. A permanent failure is logged, and returns True.
        """
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
            _log.warning("cannot send %s to the service manager: %s", lines[0], error.strerror)
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
