"""Readiness probes (TCP, HTTP, command), which run on one thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, assert_never
from urllib.parse import urlsplit

from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.spec import CommandProbe, HttpProbe, ReadinessProbe, TcpProbe
from hostmanager_server.drivers.contract import CallSoon, Poller
from hostmanager_server.drivers.exec import direct, gate
from hostmanager_server.drivers.exec.command import CommandError, ExecCommand
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.spawning import Heritage, Spawner
from hostmanager_server.linux.thread_names import name_this_thread

_RETRY_DELAY = 1.0  # s between two attempts to start the thread
_KILLED_ENDS = 1_000  # ms for a killed command to end
_log = logging.getLogger(__name__)


class Prober:
    """Runs probes until they succeed or are cancelled.

    The thread starts with the first probe, and sleeps while no probe runs. All methods, and `poller`,
    belong to the supervisor thread; `call_soon` may be called from any thread. When the system has no
    threads or descriptors left, the prober logs one warning and tries again each second.
    """

    def __init__(self, call_soon: CallSoon, poller: Poller, spawner: Spawner | None = None) -> None:
        self._call_soon = call_soon
        self._spawner = spawner
        self._poller = poller
        self._start_failing = False  # the last attempt to start the thread failed, and a warning was logged
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._unreaped: set[int] = set()  # children that a debugger keeps, or that do not end

    def start(
        self, probe: ReadinessProbe, command: ExecCommand | None, ready: Callable[[], None]
    ) -> Callable[[], None]:
        """Repeat a probe until it succeeds, then call `ready` on the supervisor thread.

        Returns a callable that cancels the probe; `ready` is never called after the cancel. `command` is
        the prepared command of a CommandProbe.
        """
        loop: asyncio.AbstractEventLoop | None = None
        cancelled = False
        task: asyncio.Task[None] | None = None

        def answered() -> None:
            if not cancelled:
                ready()

        def begin() -> None:
            nonlocal task
            if not cancelled:
                task = asyncio.get_running_loop().create_task(self._ask(probe, command, answered))

        def end() -> None:
            if task is not None:
                task.cancel()

        def cancel() -> None:
            nonlocal cancelled
            if not cancelled:
                cancelled = True
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    if loop is not None:
                        loop.call_soon_threadsafe(end)

        def try_to_begin() -> None:
            nonlocal loop
            if cancelled:
                return
            loop = self._running_loop()
            if loop is None:
                self._poller.call_later(_RETRY_DELAY, try_to_begin)
            else:
                loop.call_soon_threadsafe(begin)

        try_to_begin()
        return cancel

    def close(self) -> None:
        """End every probe and the thread."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop = self._thread = None

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop of the running thread; None when the thread cannot start."""
        if self._loop is None:
            loop = None
            try:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_run, args=(loop,), name="probes", daemon=True)
                thread.start()
            except (OSError, RuntimeError) as error:  # no descriptors, no threads
                if loop is not None:
                    loop.close()
                if not self._start_failing:
                    _log.warning("cannot start the thread of the readiness probes: %s; trying again", error)
                self._start_failing = True
                return None
            self._loop, self._thread, self._start_failing = loop, thread, False
        return self._loop

    async def _ask(
        self, probe: ReadinessProbe, command: ExecCommand | None, answered: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(probe.timeout):
                    if await self._try(probe, command):
                        self._call_soon(answered)
                        return
            except (CommandError, OSError, ValueError, EOFError, RuntimeError):
                # not reachable, no HTTP, not executable, out of time, or no thread for a name lookup
                pass  # not ready yet
            await asyncio.sleep(max(0.0, began + probe.interval - loop.time()))

    def _try(self, probe: ReadinessProbe, command: ExecCommand | None) -> Coroutine[Any, Any, bool]:
        match probe.check:
            case TcpProbe(host, port):
                return _connects(host, port)
            case HttpProbe(url):
                return _answers(url)
            case CommandProbe():
                if command is None:
                    raise AssertionError("a command probe needs its command")
                return _succeeds(command, self._spawner, self._unreaped)
            case other:
                assert_never(other)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    name_this_thread("probes")
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(_end(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _connects(host: str, port: int) -> bool:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    return True


async def _answers(url: str) -> bool:
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
        return protocol.startswith(b"HTTP/") and 200 <= int(rest[:3]) < 400
    finally:
        writer.close()


async def _succeeds(command: ExecCommand, spawner: Spawner | None, unreaped: set[int]) -> bool:
    loop = asyncio.get_running_loop()
    unreaped -= {pid for pid in unreaped if _is_reaped(pid)}
    pid, pidfd = _start(command, spawner)
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, functools.partial(_resolve, ended))
    try:
        await ended
        return _reap(pid, pidfd, unreaped) == ExitStatus(code=0)
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
