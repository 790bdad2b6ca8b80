"""Probes (TCP, HTTP, command) of readiness and liveness, which run on one thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, assert_never

from hostmanager_server.core.events import Verdict
from hostmanager_server.core.spec import CommandProbe, HttpProbe, LivenessProbe, ReadinessProbe, TcpProbe
from hostmanager_server.drivers.contract import CallSoon, Poller
from hostmanager_server.drivers.exec.command import CommandError, ExecCommand
from hostmanager_server.drivers.exec.liveness_attempts import LivenessAttempts, MakeCommand
from hostmanager_server.drivers.exec.probe_attempts import try_command, try_http, try_tcp
from hostmanager_server.linux.spawning import Spawner
from hostmanager_server.linux.thread_names import name_this_thread

_RETRY_DELAY = 1.0  # s between two attempts to start the thread
_AT_ONCE = 16  # attempts of liveness probes; the others wait for their turn
_log = logging.getLogger(__name__)

# Receives the verdict of each attempt, with the reason, on the thread of the probes.
Heard = Callable[[Verdict, str], None]


class Prober:
    """Runs readiness probes until they succeed, and all probes until they are cancelled.

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
        self._turns = asyncio.Semaphore(_AT_ONCE)  # used on the thread only
        self._unreaped: set[int] = set()  # children that a debugger keeps, or that do not end

    def start(
        self, probe: ReadinessProbe, command: ExecCommand | None, ready: Callable[[], None]
    ) -> Callable[[], None]:
        """Repeat a probe until it succeeds, then call `ready` on the supervisor thread.

        Returns a callable that cancels the probe; `ready` is never called after the cancel. `command` is
        the prepared command of a CommandProbe.
        """
        cancelled = False

        def answered() -> None:
            if not cancelled:
                ready()

        end = self._begin(lambda: self._ask(probe, command, answered))

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            end()

        return cancel

    def watch(
        self, probe: LivenessProbe, make_command: MakeCommand, delay: float, heard: Heard
    ) -> Callable[[], None]:
        """Repeat a liveness probe until it is cancelled, first after `delay` s.

        Returns a callable that cancels the probe. `heard` may be called a last time after the cancel.
        """
        return self._begin(lambda: self._keep_asking(probe, make_command, delay, heard))

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        """Run a coroutine on the thread, once the thread runs; return a callable that cancels it."""
        loop: asyncio.AbstractEventLoop | None = None
        cancelled = False
        task: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal task
            if not cancelled:
                task = asyncio.get_running_loop().create_task(work())

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
                    _log.warning("cannot start the thread of the probes: %s; trying again", error)
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

    async def _try(self, probe: ReadinessProbe, command: ExecCommand | None) -> bool:
        match probe.check:
            case TcpProbe(host, port):
                return not await try_tcp(host, port)
            case HttpProbe(url):
                return not await try_http(url)
            case CommandProbe():
                if command is None:
                    raise AssertionError("a command probe needs its command")
                return (await try_command(command, self._spawner, self._unreaped)).success
            case other:
                assert_never(other)

    async def _keep_asking(
        self, probe: LivenessProbe, make_command: MakeCommand, delay: float, heard: Heard
    ) -> None:
        loop = asyncio.get_running_loop()
        attempt = LivenessAttempts(probe, make_command, self._spawner, self._unreaped)
        await asyncio.sleep(delay)
        while True:
            began = loop.time()
            async with self._turns:
                answer = await attempt.make()
            if answer is not None:
                heard(*answer)
            await asyncio.sleep(max(0.0, began + probe.interval - loop.time()))


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
