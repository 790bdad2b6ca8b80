"""The composition root: builds everything, starts it in order, stops it in order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

from hostmanager_server.config.manager_options import PersistTargets
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.plan import ALL, TargetChange
from hostmanager_server.core.spec import Management, Target
from hostmanager_server.daemon.compose_wiring import engine_access, service_driver
from hostmanager_server.daemon.event_log import log_events, wait_for_first_observation
from hostmanager_server.daemon.recovery import recovered_state, targets_survive
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.daemon.site_file import SiteFile
from hostmanager_server.daemon.systemd_notifier import SystemdNotifier
from hostmanager_server.daemon.upgrade import command_line, preflight
from hostmanager_server.drivers.contract import Driver, Poller, PostEvent
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.process.cgroup_delegation import find_groups
from hostmanager_server.drivers.process.driver import ProcessDriver
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.drivers.process.records.record_directory import has_records
from hostmanager_server.linux.pidfds import boot_id
from hostmanager_server.rpc.context import RpcContext
from hostmanager_server.rpc.convert import Daemon, InstanceConverter
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.joined import Joined
from hostmanager_server.rpc.server import Server
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.state_directory import StateDir, StateDirError
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import (
    AdoptionError,
    CallSoon,
    EndingError,
    NotDurableError,
    ReplacingError,
    RequestError,
    Supervisor,
    UpgradeError,
    now,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERYTHING = frozenset({Management.HOST, Management.DOCKER})


@dataclass(frozen=True, slots=True)
class DaemonOutcome:
    """How the daemon ended: the exit code; or the descriptor of the state directory's lock, for the code that
    is to take over."""

    code: int = 0
    lock: int | None = None


@dataclass(frozen=True, slots=True)
class _End:
    disown: frozenset[Management]  # what is managed in these ways is left to the next daemon
    code: int = 0
    upgrade: bool = False


class _BrokenDownError(Exception):
    """The supervision ended by a bug."""


class App:
    """One daemon, on the running event loop."""

    def __init__(self, settings: DaemonSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[_End] = self._loop.create_future()
        self._impatient = asyncio.Event()
        self._broken = asyncio.Event()  # nothing is supervised any more
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor: Supervisor | None = None
        self._above: SystemdNotifier | None = None
        self._preflight = Joined(
            lambda: asyncio.to_thread(preflight, command_line(), dict(os.environ))
        )  # one process at a time, however many clients ask

    async def run(
        self, ready: Callable[[list[str]], None], inherited_lock: int | None = None
    ) -> DaemonOutcome:
        """Serve until asked to end; an exit code of 1: the supervision broke down. `ready` is called with the
        addresses once they are served. `inherited_lock`: see StateDir. Raises StateDirError or AddressError
        when nothing was started."""
        settings = self._settings
        state_dir = StateDir(settings.state_dir, inherited_lock, settings.trust)
        daemon = Daemon(version("hostmanager"), secrets.token_hex(8), os.getpid(), now())
        store = Store(
            daemon.epoch, ManagerStatus(ManagerState.STOPPED, settings.host or "", str(settings.site_file))
        )
        outputs = OutputFiles(state_dir.path / "logs")

        def make_driver(poller: Poller, post: PostEvent, call_soon: CallSoon) -> Driver:
            groups = find_groups(settings.cgroup, state_dir.path)
            kept = DescriptorStore.from_environment(os.environ)
            return ProcessDriver(poller, post, state_dir.path, outputs, daemon.epoch, call_soon, groups, kept)

        journal = Journal(state_dir.path / "journal.sqlite", boot_id())
        try:
            recovered = journal.open()
        except (sqlite3.Error, OSError) as error:
            raise StateDirError(
                f"cannot use the state directory {state_dir.path}: journal: {error}"
            ) from error
        died = not recovered.ended and recovered.boot_id == boot_id()
        kept = targets_survive(recovered, settings.persist, died=died)
        used = has_records(state_dir.path / "runs")
        left = recovered_state(recovered, targets=kept, histories=died, used=used)
        journal.discard(targets=not kept, histories=not died)
        compose = settings.compose
        services = None if compose is None else service_driver(compose, settings.working_dir, settings.trust)
        site = SiteFile(settings)
        supervisor = Supervisor(
            store, site.load, make_driver, journal, self._broke_down, left, services, site.keep
        )
        limits = settings.limits
        hub = Hub(store)
        convert = InstanceConverter(lambda spec: str(outputs.path(spec.instance_id, spec.log)))
        engine = None if compose is None else engine_access()
        context = RpcContext(
            daemon, store, supervisor, hub, convert, outputs, now, self.exit, self.upgrade, engine
        )
        server = Server(
            context, list(settings.listen), limits,
            tcp_reflection=settings.tcp_reflection, trust=settings.trust,
        )  # fmt: skip
        above = self._above = SystemdNotifier(os.environ, store)
        disown = True  # whatever goes wrong below, what runs is left to the next daemon
        end = _End(EVERYTHING, 1)
        try:
            addresses = server.bind()
            self._spawn(log_events(store, hub))
            supervisor.start()
            self._supervisor = supervisor
            above.starting(supervisor.call_soon)
            supervisor.log(_began(daemon, upgraded=inherited_lock is not None))
            slept = (died or kept) and recovered.manager is not ManagerState.RUNNING  # or was about to
            # What the config wants, or has gained since, is not to be started just to be stopped.
            initial = Target.DOWN if slept else None if kept else settings.initial_state
            changes = [] if initial is None else [TargetChange(ALL, initial)]
            try:
                await self._unless_broken(supervisor.start_manager(changes, tolerant=True))
            except NotDurableError as error:
                log.error("%s", error)  # a full disk is no reason to leave the agents alone
            if slept:
                supervisor.stop_manager()
            # Not before what an earlier daemon left is taken back: nobody is to be told that nothing runs.
            await wait_for_first_observation(store, hub)
            await server.serve()
            ready(addresses)
            above.ready()
            end = await self._end
            if end.upgrade:
                above.replacing()
            else:
                above.stopping()
            if not end.disown:
                journal.end()
            if settings.persist is PersistTargets.ALWAYS:
                supervisor.keep_targets()
            if end.disown != EVERYTHING:
                disown = not await self._bring_down(supervisor, end.disown) or bool(end.disown)
            return DaemonOutcome(end.code, state_dir.lock if end.upgrade else None)
        except (_BrokenDownError, AdoptionError) as error:
            if isinstance(error, AdoptionError):
                log.error("%s", error)
            disown = True
            end = _End(EVERYTHING, 1)
            return DaemonOutcome(end.code)
        finally:
            await server.stop()
            if engine is not None:
                await asyncio.to_thread(engine.close)
            supervisor.close(disown=disown)
            outputs.close()
            journal.close()
            above.close()
            if not end.upgrade:
                state_dir.close()

    # --- what is asked of the daemon, on the event loop

    def exit(self, disown: frozenset[Management]) -> None:
        """End the daemon: everything is brought down first, but for what is managed in one of the ways in
        `disown`, which is left to the next one. Raises ReplacingError when it is giving way to another."""
        if self._end.done() and self._end.result().upgrade:
            raise ReplacingError
        self._finish(_End(disown))

    async def upgrade(self, validate_only: bool = False) -> str:
        """Give way to the code that is installed now; its version. Answers before that is done; when
        `validate_only` nothing else is done. Raises UpgradeError when it does not start, EndingError when the
        daemon is on its way out."""
        self._raise_if_ending()
        version = await self._preflight()
        if not validate_only:
            self._raise_if_ending()  # by now
            log.info("upgrading to version %s", version)
            self._finish(_End(EVERYTHING, upgrade=True))
        return version

    def upgrade_soon(self) -> None:
        """Upgrade, as a signal asks for it."""
        self._spawn(self._upgrade())

    def terminate(self) -> None:
        """A signal asks to end: bring everything down first. When it comes again, leave at once what still
        runs to the next daemon."""
        if self._end.done() and self._end.result().upgrade:
            log.info("ending: the daemon that takes over is to bring everything down")
            self._impatient.set()
        elif self._end.done():
            log.warning("asked to end a second time: what still runs is left to the next daemon")
            self._impatient.set()
        else:
            log.info("ending: bringing everything down first; a second signal leaves it running")
            self._finish(_End(frozenset()))

    @property
    def impatient(self) -> bool:
        """Whether a signal asked to end when the daemon was on its way out already."""
        return self._impatient.is_set()

    def reload(self) -> None:
        """Read the site config anew, as update(reload_config) does."""
        self._spawn(self._reload())

    # --- pieces

    def _finish(self, end: _End) -> None:
        if not self._end.done():
            self._end.set_result(end)

    def _broke_down(self) -> None:
        # On the supervisor's thread, which ends. Exiting lets whoever started the daemon start it again.
        self._loop.call_soon_threadsafe(self._broken.set)
        self._loop.call_soon_threadsafe(self._finish, _End(EVERYTHING, 1))

    async def _reload(self) -> None:
        if self._supervisor is None or self._above is None:
            return
        with self._above.reloading():
            try:
                await asyncio.wrap_future(self._supervisor.update(reload_config=True))
            except RequestError as error:
                log.error("reload: %s", error)

    async def _upgrade(self) -> None:
        try:
            await self.upgrade()
        except (UpgradeError, EndingError) as error:
            log.error("%s", error)

    def _raise_if_ending(self) -> None:
        if self._end.done() and not self._end.result().upgrade:
            raise EndingError

    async def _bring_down(self, supervisor: Supervisor, disown: frozenset[Management]) -> bool:
        """Whether everything is down that is to be: not when a second signal came first."""
        stopped = self._unless_broken(supervisor.stop_manager(disown))
        impatient = self._impatient.wait()
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(stopped), asyncio.ensure_future(impatient)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[1].cancel()
        if not tasks[0].done():
            tasks[0].cancel()
            return False
        await tasks[0]
        return True

    async def _unless_broken(self, future: Future[T]) -> T:
        """The future's outcome. Raises _BrokenDownError when the supervision ends: nobody would answer."""
        answer: asyncio.Future[T] = asyncio.wrap_future(future)
        broken: asyncio.Future[Any] = asyncio.ensure_future(self._broken.wait())
        both: list[asyncio.Future[Any]] = [answer, broken]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise _BrokenDownError
            return answer.result()
        finally:
            broken.cancel()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)


def _began(daemon: Daemon, *, upgraded: bool) -> LogEntry:
    if upgraded:
        message = f"version {daemon.version} took over in place; epoch {daemon.epoch}"
        return LogEntry(EntryKind.DAEMON, "Upgraded", message, now())
    return LogEntry(EntryKind.DAEMON, "DaemonStarted", f"epoch {daemon.epoch}", now())
