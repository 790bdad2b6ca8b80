"""A match: a daemon that dies again and again under the load of clients, and the checks in between."""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import COMMAND, DaemonProcess, DiedError, open_channel
from tests.referee.event_watcher import EventWatcher
from tests.referee.host import AgentKind, Host, make_agents
from tests.referee.invariants import Breach, Invariant
from tests.referee.journals import AgentProcess
from tests.referee.operators import Operator, OperatorGate
from tests.referee.output_checks import check_output
from tests.referee.planted_links import PlantedLinks
from tests.referee.polling import PATIENCE, Evidence, poll
from tests.referee.process_checks import ProcessChecks
from tests.referee.resource_checks import ResourceChecks
from tests.referee.status_watcher import StatusWatcher
from tests.referee.target_model import Targets
from tests.referee.watch_checks import WatchChecks
from tests.referee.watcher import RefereeWatcher

AGENTS: Mapping[AgentKind, int] = {
    AgentKind.STEADY: 3, AgentKind.CRASHER: 1, AgentKind.DEAF: 1,
    AgentKind.FORKER: 2, AgentKind.WRITER: 1, AgentKind.SLOW: 1,
}  # fmt: skip
LOGS_KEPT = 5  # logs of the latest daemons


def derived(seed: int, *words: object) -> random.Random:
    """Return an independent random generator, derived from the seed and the words."""
    return random.Random("/".join(map(str, (seed, *words))))


class Match:
    """All parts of one match: host, daemons, clients and checks.

    `program` is the daemon's command.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        counts: Mapping[AgentKind, int] = AGENTS,
        beat: float = 0.05,
        operators: int = 3,
        pause: float = 0.04,
        program: Sequence[str] = COMMAND,
    ) -> None:
        self.seed = seed
        self.program = program
        self.host = Host(folder, make_agents(counts), beat)
        self.links = PlantedLinks(
            self.host.state_dir / "logs",
            folder / "not-ours",
            copied=[agent.instance for agent in self.host.agents if agent.kind is AgentKind.WRITER],
            started=[agent.instance for agent in self.host.agents if agent.kind is AgentKind.STEADY][:1],
        )
        self.model = Targets(self.host.agents)
        self.daemons: list[DaemonProcess] = []
        self.daemons_started = 0
        self.evidence = Evidence(self.host, self.daemons)
        self.processes = ProcessChecks(self.host, self.model, self.evidence)
        self.watches = WatchChecks(self.host, self.model, self.daemons, self.evidence)
        self.resources = ResourceChecks(self.host, operators)
        self.gate = OperatorGate()
        self.operators = [
            Operator(self.host, self.model, self.gate, derived(seed, "operator", n), n, pause)
            for n in range(operators)
        ]
        self.status_watchers = _status_watchers(self.host, seed)
        self.event_watchers = _event_watchers(self.host, seed)
        self._channel = open_channel(self.host)
        self.stub = pb_grpc.HostManagerServiceStub(self._channel)
        self.host.start_unrelated_processes()
        for thread in (*self.operators, *self.watchers):
            thread.start()

    @property
    def daemon(self) -> DaemonProcess:
        """The latest daemon."""
        return self.daemons[-1]

    @property
    def watchers(self) -> list[RefereeWatcher[Any]]:
        """All watchers."""
        return [*self.status_watchers, *self.event_watchers]

    # --- the daemon

    def start_daemon(self, failpoints: str = "") -> DaemonProcess:
        """Start the next daemon, and drop the oldest log."""
        daemon = DaemonProcess(self.host, self.daemons_started, failpoints, self.program)
        self.daemons_started += 1
        self.daemons.append(daemon)
        if len(self.daemons) > LOGS_KEPT:
            self.daemons[-LOGS_KEPT - 1].log.unlink(missing_ok=True)
        return daemon

    def wait_until_serving(self) -> None:
        """Wait for the daemon to serve. Raises DiedError, or a Breach for a daemon that hangs."""
        if not poll(lambda: self.daemon.serves(self.stub)):
            text = f"the daemon does not serve within {PATIENCE:g} s"
            raise Breach(Invariant.I3, text, self.daemon.log_tail())

    def upgrade_daemon(self) -> None:
        """Upgrade the daemon under load. Raises DiedError, or a Breach."""
        before = self._epoch()
        self.gate.open()
        self.daemon.process.send_signal(signal.SIGUSR2)
        if not poll(lambda: self.daemon.serves(self.stub) and self._epoch() not in (before, "")):
            text = f"the upgraded daemon does not serve within {PATIENCE:g} s"
            raise Breach(Invariant.I3, text, self.daemon.log_tail())

    def _epoch(self) -> str:
        """Return the daemon's epoch; empty while no daemon answers."""
        try:
            return self.stub.GetStatus(pb.GetStatusRequest(), timeout=5).manager.epoch
        except grpc.RpcError:
            return ""

    # --- killed agents

    def kill_agents(self, rng: random.Random, count: int) -> list[AgentProcess]:
        """Kill up to `count` random processes of agents, descendants included; return the killed ones."""
        self.host.journals.read()
        living = [
            process for agent in self.host.agents for process in self.host.journals.alive(agent.instance)
        ]
        chosen = rng.sample(living, min(count, len(living)))
        return [process for process in chosen if kill(process)]

    # --- checks

    def settle(self) -> None:
        """Stop all requests, and run every check that applies to a live daemon.

        Raises Breach, or DiedError when the daemon ended.
        """
        self.gate.close(PATIENCE)
        self.links.check()
        self.links.remove_output_links()
        self.raise_failures()
        self.processes.check_convergence(self.daemon, self.stub)
        self.processes.check_starts_and_exits()
        self.processes.check_beats()
        self.watches.check_agreement(self.daemon, self.stub, self.status_watchers)
        self.watches.check_truth(self.status_watchers)
        self.resources.check(self.daemon)
        self.daemon.require_alive()
        self.model.settle()

    def settle_alone(self) -> None:
        """Settle, then check the daemon's resources without watchers."""
        self.settle()
        self.pause_watchers()
        self.resources.check_resources(self.daemon, self.stub)
        self.resources.check_restarts(self.daemon, self.stub, self._restart_all)
        self.resume_watchers()
        self.processes.check_starts_and_exits()

    def _restart_all(self) -> None:
        entries = self.model.begin("restart", {}, [agent.instance for agent in self.host.agents])
        try:
            self.stub.Restart(pb.RestartRequest(all=True), timeout=PATIENCE)
        except grpc.RpcError as error:
            self.model.lose(entries)
            raise DiedError(f"the daemon does not restart all instances: {error.code().name}") from error
        self.model.acknowledge({}, entries)
        self.processes.check_convergence(self.daemon, self.stub)

    def raise_failures(self) -> None:
        """Raise the first failure of an operator or watcher thread."""
        for operator in self.operators:
            if operator.failure is not None:
                raise operator.failure
        for watcher in self.watchers:
            watcher.raise_violation()

    def finish(self) -> None:
        """Stop the last daemon, and check that no process remains and no output line is lost."""
        self.settle()
        self.pause_watchers()
        with self.model.exclusive(agent.instance for agent in self.host.agents):
            everything = [agent.instance for agent in self.host.agents]
            self.model.begin("the end", {}, everything)
            code = self.daemon.end(PATIENCE)
        if code != 0:
            raise Breach(Invariant.I3, f"the daemon ends with exit code {code}", self.daemon.log_tail())
        self.processes.check_starts_and_exits()
        remaining = proc.marked(self.host.folder)
        for instance, pids in remaining.items():
            text = f"the daemon stopped all instances and ended, but {pids} of {instance} still run"
            raise Breach(Invariant.I8, text, self.evidence.of(instance))
        for process in self.host.journals.processes.values():
            if process.alive():
                text = f"the daemon stopped all instances and ended, but {process} still runs"
                raise Breach(Invariant.I8, text, self.evidence.of(process.instance))
        self.links.check()
        self.links.remove()
        check_output(self.host)

    def pause_watchers(self) -> None:
        """Disconnect all watchers."""
        for watcher in self.watchers:
            watcher.pause()

    def resume_watchers(self) -> None:
        """Let all watchers connect again."""
        for watcher in self.watchers:
            watcher.resume()

    def close(self) -> None:
        """Stop all threads and processes, after success or failure."""
        self.gate.finish()
        for watcher in self.watchers:
            watcher.finish()
        for daemon in self.daemons:
            daemon.kill()
        self.host.clear()
        self._channel.close()
        for thread in (*self.operators, *self.watchers):
            thread.join(PATIENCE)


def _status_watchers(host: Host, seed: int) -> list[StatusWatcher]:
    """Return a watcher that stays connected, and one that disconnects often."""
    return [
        StatusWatcher(host, derived(seed, "watcher", 0), "watcher-0"),
        StatusWatcher(host, derived(seed, "watcher", 1), "watcher-1", disconnect_after=0.6),
    ]


def _event_watchers(host: Host, seed: int) -> list[EventWatcher]:
    """Return a watcher that stays connected, and one that disconnects often."""
    return [
        EventWatcher(host, derived(seed, "events", 0), "events-0"),
        EventWatcher(host, derived(seed, "events", 1), "events-1", disconnect_after=0.6),
    ]


def kill(process: AgentProcess) -> bool:
    """Kill exactly this process with SIGKILL and wait for its end; return False if already dead."""
    try:
        pidfd = os.pidfd_open(process.identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not process.alive():
            return False
        process.killed = float("inf")  # unknown until the end was observed
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        poller.poll(PATIENCE * 1000)
        process.killed = proc.now()
        return True
    except ProcessLookupError:
        process.killed = None
        return False
    finally:
        os.close(pidfd)
