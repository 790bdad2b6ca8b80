"""Attempts of probes: a TCP connection, an HTTP request, a command."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import ssl
from urllib.parse import urlsplit

from hostmanager_server.core.events import ExitStatus
from hostmanager_server.drivers.exec import direct, gate
from hostmanager_server.drivers.exec.command import ExecCommand
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.spawning import Heritage, Spawner

_KILLED_ENDS = 1_000  # ms for a killed command to end


async def try_tcp(host: str, port: int) -> str:
    """Open and close a connection, and return an empty text. Raises OSError."""
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return ""


async def try_http(url: str) -> str:
    """Send a GET; return why the answer is a failure, empty for a status from 200 to 399.

    Raises OSError, and ValueError for an endless line.
    """
    parts = urlsplit(url)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if context else 80)
    host = parts.hostname or "localhost"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        authority = parts.netloc.rpartition("@")[2]
        head = f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode("utf-8"))
        status = await reader.readline()  # HTTP/1.1 200 OK
        protocol, _, rest = status.partition(b" ")
        if not protocol.startswith(b"HTTP/") or not rest[:3].isdigit():
            return "the answer is no HTTP"
        code = int(rest[:3])
        return "" if 200 <= code < 400 else f"HTTP status {code}"
    finally:
        writer.close()


async def try_command(command: ExecCommand, spawner: Spawner | None, unreaped: set[int]) -> ExitStatus:
    """Run a command and return its exit status; kill the command when cancelled.

    Ended children that cannot be reaped are kept in `unreaped`. Raises CommandError, OSError or ValueError
    if the command cannot be started.
    """
    loop = asyncio.get_running_loop()
    unreaped -= {pid for pid in unreaped if _is_reaped(pid)}
    pid, pidfd = _start(command, spawner)
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, functools.partial(_resolve, ended))
    try:
        await ended
        return _reap(pid, pidfd, unreaped)
    except asyncio.CancelledError:
        # The command is unreaped, so the process group still has its number; the signal also reaches
        # processes that the command started.
        os.killpg(pid, signal.SIGKILL)
        pidfds.has_ended(pidfd, _KILLED_ENDS)
        _reap(pid, pidfd, unreaped)
        raise
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def _reap(pid: int, pidfd: int, unreaped: set[int]) -> ExitStatus:
    """Return the exit status of an ended child, and reap the child; if impossible, add it to `unreaped`.

    A debugger keeps a child from being reaped. The thread must not wait for that, as it serves all probes.
    """
    status = pidfds.reap(pidfd)
    if status is not None:
        return status
    unreaped.add(pid)
    identity = pidfds.identify(pid, pidfd)
    return ExitStatus() if identity is None else pidfds.exit_status_of_non_child(identity, pidfd)


def _is_reaped(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def _start(command: ExecCommand, spawner: Spawner | None) -> tuple[int, int]:
    """Start a command and return its pid and a pidfd. Raises CommandError, OSError or ValueError."""
    if spawner is not None:
        return direct.spawn(spawner, command, Heritage(output=spawner.null))
    pid = gate.spawn_ungated(command.argv, command.working_dir, command.env, command.umask)
    try:
        gate.set_nice(pid, command.nice)
        pidfd = pidfds.open_pidfd(pid)
    except OSError:  # no permission, or no descriptors: the command cannot be awaited
        _kill_and_reap(pid)
        raise
    if pidfd is None:
        raise AssertionError("an unreaped child has a pidfd")
    return pid, pidfd


def _kill_and_reap(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
