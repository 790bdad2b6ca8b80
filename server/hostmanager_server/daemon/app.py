"""The lifecycle of the daemon: the order in which its parts start, serve and stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from hostmanager.values import dataclass

from hostmanager_server.config.manager_options import PersistTargets
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.origin import Origin, OriginKind
from hostmanager_server.core.plan import ALL, TargetChange
from hostmanager_server.core.spec import Management, Target
from hostmanager_server.daemon.breakdown import Breakdown, BrokenDownError
from hostmanager_server.daemon.event_log import log_events, wait_for_first_observation
from hostmanager_server.daemon.own_log import keep_own_log
from hostmanager_server.daemon.parts import Parts, build_parts
from hostmanager_server.daemon.recovery import JournalRecovery
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.daemon.upgrade import command_line, preflight
from hostmanager_server.rpc.convert import DaemonInfo
from hostmanager_server.rpc.requests import upgrading_entry
from hostmanager_server.rpc.single_flight import SingleFlight
from hostmanager_server.supervisor import (
    AdoptionError,
    EndingError,
    NotDurableError,
    ReplacingError,
    RequestError,
    Supervisor,
    UpgradeError,
    now,
)

log = logging.getLogger(__name__)

EVERYTHING = frozenset({Management.HOST, Management.DOCKER})


@dataclass(frozen=True, slots=True)
class DaemonOutcome:
    """The end of a daemon: an exit code, or the lock for the successor.

    After an upgrade, `lock` is the descriptor of the state directory's lock, which the successor takes over.
    """

    code: int = 0
    lock: int | None = None


@dataclass(frozen=True, slots=True)
class _End:
    disown: frozenset[Management]  # instances under these managements keep running for the next daemon
    code: int = 0
    upgrade: bool = False
    origin: Origin | None = None


class App:
    """One daemon, on the running event loop."""

    def __init__(self, settings: DaemonSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[_End] = self._loop.create_future()
        self._impatient = asyncio.Event()
        self._breakdown = Breakdown()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: Parts | None = None  # None until the supervisor has started
        self._preflight = SingleFlight(
            lambda: asyncio.to_thread(preflight, command_line(), dict(os.environ))
        )  # concurrent clients share one preflight process

    async def run(
        self, ready: Callable[[list[str]], None], inherited_lock: int | None = None
    ) -> DaemonOutcome:
        """Build and start the daemon, serve until a request ends it, and stop it.

        The daemon calls `ready` with its addresses once it serves them. StateDir describes `inherited_lock`.
        Exit code 1 of the outcome means that the supervision broke down. Raises StateDirError or AddressError
        if nothing was started.
        """
        parts = build_parts(
            self._settings,
            inherited_lock,
            exit_daemon=self.exit,
            upgrade=self.upgrade,
            break_down=self._break_down,
        )
        keep_own_log(parts.own_log, parts.outputs)
        end = _End(EVERYTHING, 1)
        disown = True  # after any error below, running instances stay for the next daemon
        try:
            addresses = await self._start(parts, upgraded=inherited_lock is not None)
            await self._serve(parts, addresses, ready)
            end = await self._end
            disown = await self._wind_down(parts, end)
            return DaemonOutcome(end.code, parts.state_dir.lock if end.upgrade else None)
        except (BrokenDownError, AdoptionError) as error:
            if isinstance(error, AdoptionError):
                log.error("%s", error)
            disown = True
            end = _End(EVERYTHING, 1)
            return DaemonOutcome(end.code)
        finally:
            await self._close(parts, disown=disown, keep_lock=end.upgrade)

    # --- requests to the daemon, on the event loop

    def exit(self, disown: frozenset[Management], origin: Origin) -> None:
        """End the daemon after all instances are down, at the request of `origin`.

        Instances under the managements in `disown` keep running, and the next daemon recovers them. Raises
        ReplacingError during an upgrade.
        """
        if self._end.done() and self._end.result().upgrade:
            raise ReplacingError
        self._finish(_End(disown, origin=origin))

    async def upgrade(self, *, validate_only: bool = False) -> str:
        """Start the upgrade to the code that is installed now, and return its version.

        The call returns before the upgrade is done. With `validate_only`, the daemon checks only that the
        installed code starts. Raises UpgradeError if the installed code does not start, and EndingError if
        the daemon is ending.
        """
        self._raise_if_ending()
        version = await self._preflight()
        if not validate_only:
            self._raise_if_ending()  # a request may have ended the daemon during the preflight
            log.info("upgrading to version %s", version)
            self._finish(_End(EVERYTHING, upgrade=True))
        return version

    def upgrade_soon(self) -> None:
        """Start an upgrade on behalf of a signal.

        Logs an error if the upgrade is not possible.
        """
        self._spawn(self._upgrade())

    def terminate(self, signum: int = signal.SIGTERM) -> None:
        """End the daemon on behalf of a signal, after all instances are down.

        A second signal ends the daemon at once; the instances still running stay for the next daemon.
        """
        if self._end.done() and self._end.result().upgrade:
            log.info("ending: after the upgrade, the new daemon stops all instances")
            self._impatient.set()
        elif self._end.done():
            log.warning("second signal: ending now; running instances are left to the next daemon")
            self._impatient.set()
        else:
            log.info("ending: stopping all instances first; a second signal leaves them running")
            self._finish(_End(frozenset(), origin=_signal_origin(signum)))

    @property
    def impatient(self) -> bool:
        """Return whether a signal to end arrived while the daemon was ending already."""
        return self._impatient.is_set()

    def reload(self) -> None:
        """Start to reload the site config, as OCS's update(reload_config) does."""
        self._spawn(self._reload())

    # --- the steps of a run

    async def _start(self, parts: Parts, *, upgraded: bool) -> list[str]:
        """Bind the addresses, start the supervisor and the manager; return the addresses."""
        supervisor, recovery = parts.supervisor, parts.recovery
        addresses = parts.server.bind()
        self._spawn(log_events(parts.store, parts.hub))
        parts.event_writer.start()
        supervisor.start()
        self._running = parts
        parts.notifier.starting(supervisor.call_soon)
        supervisor.log(_start_entry(parts.daemon, upgraded=upgraded))
        try:
            await self._breakdown.unless_broken(
                supervisor.start_manager(
                    self._initial_changes(recovery),
                    tolerant=True,
                    origin=Origin(OriginKind.DAEMON, now(), detail=self._initial_reason(recovery)),
                )
            )
        except NotDurableError as error:
            log.error("%s", error)  # the daemon supervises its agents also while the disk is full
        if recovery.manager_stopped:
            supervisor.stop_manager()
        self._spawn(parts.hooks.follow())
        return addresses

    def _initial_changes(self, recovery: JournalRecovery) -> list[TargetChange]:
        """Return the change of all targets at the start, if there is one."""
        if recovery.manager_stopped or self._ends_before_the_start():
            # The manager stops at once: an instance that starts now would only be stopped again.
            initial: Target | None = Target.DOWN
        elif recovery.keeps_targets:
            initial = None
        else:
            initial = self._settings.initial_state
        return [] if initial is None else [TargetChange(ALL, initial)]

    def _initial_reason(self, recovery: JournalRecovery) -> str:
        """Return why the targets of the start hold."""
        if recovery.manager_stopped:
            return "the manager was stopped before"
        if self._settings.initial_state is not None and not recovery.keeps_targets:
            return f"the option initial-state: {self._settings.initial_state.value}"
        return "the start of the daemon"

    async def _serve(self, parts: Parts, addresses: list[str], ready: Callable[[list[str]], None]) -> None:
        """Serve clients once the recovered state is known, and report readiness.

        Returns at once if the daemon is ending: a stop must not wait for the end of the start.
        """
        # The server starts after recovery, so that no client reads that nothing runs.
        observed = asyncio.ensure_future(wait_for_first_observation(parts.store, parts.hub))
        waiting: list[asyncio.Future[Any]] = [observed, self._end]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if self._end.done():
            observed.cancel()
            return
        await observed
        await parts.server.serve()
        ready(addresses)
        parts.notifier.ready()

    async def _wind_down(self, parts: Parts, end: _End) -> bool:
        """Stop the instances that `end` does not disown.

        Returns whether any instance may still run.
        """
        if end.upgrade:
            parts.notifier.upgrading()
        else:
            parts.notifier.stopping()
        if not end.disown:
            parts.journal.end()
        if self._settings.persist is PersistTargets.ALWAYS:
            parts.supervisor.keep_targets()
        if end.disown == EVERYTHING:
            return True
        return not await self._bring_down(parts.supervisor, end) or bool(end.disown)

    async def _close(self, parts: Parts, *, disown: bool, keep_lock: bool) -> None:
        """Close all parts. `disown` leaves running instances to the next daemon."""
        await parts.server.stop()
        await parts.hooks.close()
        if parts.engine is not None:
            await asyncio.to_thread(parts.engine.close)
        parts.supervisor.close(disown=disown)
        parts.outputs.close()
        parts.journal.close()
        parts.event_writer.close()
        parts.notifier.close()
        if not keep_lock:
            parts.state_dir.close()

    # --- details

    def _ends_before_the_start(self) -> bool:
        """Return whether a signal already asked for a stop of all instances.

        With kept targets the answer is no: the daemon starts with the targets that it must keep.
        """
        keeps = self._settings.persist is PersistTargets.ALWAYS
        return self._end.done() and not self._end.result().disown and not keeps

    def _finish(self, end: _End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _break_down(self) -> None:
        # Runs on the supervisor's thread, which ends. After an exit, systemd starts the daemon again.
        self._loop.call_soon_threadsafe(self._breakdown.note)
        self._loop.call_soon_threadsafe(self._finish, _End(EVERYTHING, 1))

    async def _reload(self) -> None:
        if self._running is None:
            return
        with self._running.notifier.reloading():
            try:
                reloaded = self._running.supervisor.update(
                    reload_config=True, origin=_signal_origin(signal.SIGHUP)
                )
                await asyncio.wrap_future(reloaded)
            except RequestError as error:
                log.error("cannot reload the site config: %s", error)

    async def _upgrade(self) -> None:
        try:
            version = await self.upgrade()
            if self._running is not None:
                origin = _signal_origin(signal.SIGUSR2)
                self._running.supervisor.log(upgrading_entry(version, origin))
        except (UpgradeError, EndingError) as error:
            log.error("%s", error)

    def _raise_if_ending(self) -> None:
        if self._end.done() and not self._end.result().upgrade:
            raise EndingError

    async def _bring_down(self, supervisor: Supervisor, end: _End) -> bool:
        """Stop all instances that are not disowned.

        Returns False if a second signal came first.
        """
        stopped = self._breakdown.unless_broken(supervisor.stop_manager(end.disown, end.origin))
        impatient = self._impatient.wait()
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(stopped), asyncio.ensure_future(impatient)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[1].cancel()
        if not tasks[0].done():
            tasks[0].cancel()
            return False
        await tasks[0]
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the event loop holds only a weak reference to a task
        task.add_done_callback(self._tasks.discard)


def _signal_origin(signum: int) -> Origin:
    return Origin(OriginKind.SIGNAL, now(), detail=signal.Signals(signum).name)


def _start_entry(daemon: DaemonInfo, *, upgraded: bool) -> LogEntry:
    if upgraded:
        message = f"version {daemon.version} took over in place; epoch {daemon.epoch}"
        return LogEntry(EntryKind.DAEMON, "Upgraded", message, now())
    return LogEntry(EntryKind.DAEMON, "DaemonStarted", f"epoch {daemon.epoch}", now())
