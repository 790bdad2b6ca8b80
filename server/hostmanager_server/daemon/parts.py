"""The composition root: construction of the daemon's parts and their connections."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hostmanager.distribution import version
from hostmanager.values import dataclass

from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.spec import Management
from hostmanager_server.daemon.compose_wiring import engine_access, service_driver
from hostmanager_server.daemon.hook_memory import HookMemory
from hostmanager_server.daemon.hooks import HookRunner
from hostmanager_server.daemon.own_log import find_own_log
from hostmanager_server.daemon.recovery import JournalRecovery, open_journal, recover
from hostmanager_server.daemon.settings import DaemonSettings
from hostmanager_server.daemon.site_file import SiteFile
from hostmanager_server.daemon.systemd_notifier import SystemdNotifier
from hostmanager_server.drivers.contract import CallSoon, Driver, Poller, PostEvent
from hostmanager_server.drivers.exec.command import inherited_environment
from hostmanager_server.drivers.exec.liveness import LastAnswers
from hostmanager_server.drivers.output.output_files import OutputFiles
from hostmanager_server.drivers.process.cgroup_delegation import find_cgroups
from hostmanager_server.drivers.process.driver import ProcessDriver
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.drivers.process.records.directory import has_records
from hostmanager_server.drivers.usage.meter import UsageMeter
from hostmanager_server.linux.subreaper import Orphans
from hostmanager_server.rpc.context import RpcContext, UpgradeDaemon
from hostmanager_server.rpc.convert import DaemonInfo
from hostmanager_server.rpc.convert_instance import InstanceConverter
from hostmanager_server.rpc.hub import Hub
from hostmanager_server.rpc.ports import OwnLog
from hostmanager_server.rpc.server import Server
from hostmanager_server.state.event_archive import EventArchive
from hostmanager_server.state.event_history import EventHistory
from hostmanager_server.state.event_writer import EventWriter
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.state_directory import StateDir
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import Supervisor, now

if TYPE_CHECKING:
    from hostmanager_server.drivers.compose.access import EngineAccess


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects of one daemon, built but not started."""

    daemon: DaemonInfo
    state_dir: StateDir
    store: Store
    event_writer: EventWriter
    outputs: OutputFiles
    journal: Journal
    recovery: JournalRecovery
    supervisor: Supervisor
    hub: Hub
    engine: EngineAccess | None  # None: the daemon manages no compose files
    server: Server
    notifier: SystemdNotifier
    own_log: OwnLog
    hooks: HookRunner


def build_parts(
    settings: DaemonSettings,
    inherited_lock: int | None,
    *,
    exit_daemon: Callable[[frozenset[Management], Origin], None],
    upgrade: UpgradeDaemon,
    break_down: Callable[[], None],
) -> Parts:
    """Build the parts of a daemon, on the running event loop of the first thread.

    Clients call `exit_daemon` and `upgrade` by RPC; the supervisor's thread calls `break_down` when a bug
    ends the supervision. StateDir describes `inherited_lock`. Raises StateDirError if the state directory or
    its journal cannot be used.
    """
    state_dir = StateDir(settings.state_dir, inherited_lock, settings.trust)
    daemon = DaemonInfo(version(), os.urandom(8).hex(), os.getpid(), now())
    archive = EventArchive(state_dir.path / "events", daemon.epoch)
    store = Store(
        daemon.epoch,
        ManagerStatus(ManagerState.STOPPED, settings.host or "", str(settings.site_file)),
        last_sequence=archive.last,
    )
    event_writer = EventWriter(store, archive)
    outputs = OutputFiles(state_dir.path / "logs")
    journal, contents = open_journal(state_dir.path)
    recovery = recover(contents, settings.persist, has_records=has_records(state_dir.path / "runs"))
    journal.discard(targets=not recovery.keeps_targets, histories=not recovery.crashed)
    orphans = Orphans()
    orphans.listen()
    answers = LastAnswers()
    make_driver = _process_driver(settings, state_dir, outputs, daemon.epoch, orphans, answers)
    compose = settings.compose
    services = None
    if compose is not None:
        services = service_driver(compose, settings.working_dir, settings.trust, answers)
    site = SiteFile(settings)
    hub = Hub(store)
    supervisor = Supervisor(
        store, site.load, make_driver, journal, break_down, recovery.state, services, site.keep,
        hub.let_readers_run, hub.round_ended,
    )  # fmt: skip
    own_log = find_own_log(state_dir.path, os.environ, sys.stderr.fileno() if sys.stderr else -1)
    event_writer.listen(supervisor.take_events_problem)
    outputs.listen(supervisor.take_output_problem)
    convert = InstanceConverter(lambda spec: str(outputs.path(spec.instance_id, spec.log)), answers)
    engine = None if compose is None else engine_access()
    context = RpcContext(
        daemon, store, EventHistory(store, archive), supervisor, hub, convert, outputs, now, exit_daemon,
        upgrade, UsageMeter(), engine, own_log,
    )  # fmt: skip
    server = Server(
        context, list(settings.listen), settings.limits,
        tcp_reflection=settings.tcp_reflection, trust=settings.trust,
    )  # fmt: skip
    notifier = SystemdNotifier(os.environ, store)
    hooks = HookRunner(
        store, hub, HookMemory(state_dir.path), supervisor.log, now, inherited_environment(os.environ)
    )
    return Parts(
        daemon, state_dir, store, event_writer, outputs, journal, recovery, supervisor, hub, engine, server,
        notifier, own_log, hooks,
    )  # fmt: skip


def _process_driver(
    settings: DaemonSettings,
    state_dir: StateDir,
    outputs: OutputFiles,
    epoch: str,
    orphans: Orphans,
    answers: LastAnswers,
) -> Callable[[Poller, PostEvent, CallSoon], Driver]:
    """Return the factory of the process driver.

    The supervisor calls the factory on its own thread.
    """

    def make(poller: Poller, post: PostEvent, call_soon: CallSoon) -> Driver:
        groups = find_cgroups(settings.cgroup, state_dir.path)
        descriptors = DescriptorStore.from_environment(os.environ)
        return ProcessDriver(
            poller, post, state_dir.path, outputs, epoch, call_soon, groups, descriptors, orphans, answers
        )

    return make
