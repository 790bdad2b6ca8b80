"""A match: a daemon that dies again and again, clients that ask it for things meanwhile, and the referee."""

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
from tests.referee.bait import Bait
from tests.referee.daemons import COMMAND, DaemonLife, DiedError, open_channel
from tests.referee.event_watcher import EventWatcher
from tests.referee.ground import Ground, Kind, cast
from tests.referee.household import Household
from tests.referee.lives import Life
from tests.referee.looking import PATIENCE, Evidence, eventually
from tests.referee.model import Model
from tests.referee.operators import Gate, Operator
from tests.referee.output import check_output
from tests.referee.running import Running
from tests.referee.status_watcher import StatusWatcher
from tests.referee.told import Told
from tests.referee.verdict import Invariant, Violation
from tests.referee.watcher import Watcher

CAST: Mapping[Kind, int] = {
    Kind.STEADY: 3, Kind.CRASHER: 1, Kind.DEAF: 1, Kind.FORKER: 2, Kind.WRITER: 1, Kind.SLOW: 1,
}  # fmt: skip
LOGS_KEPT = 5  # of the latest daemons


def derived(seed: int, *words: object) -> random.Random:
    """A source of chance of its own for each user of the seed."""
    return random.Random("/".join(map(str, (seed, *words))))


class Match:
    """Everything that plays, from the first daemon to the end. `program` is the daemon's command."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        counts: Mapping[Kind, int] = CAST,
        beat: float = 0.05,
        operators: int = 3,
        pause: float = 0.04,
        program: Sequence[str] = COMMAND,
    ) -> None:
        self.seed = seed
        self.program = program
        self.ground = Ground(folder, cast(counts), beat)
        self.bait = Bait(
            self.ground.state_dir / "logs",
            folder / "not-ours",
            copied=[agent.instance for agent in self.ground.agents if agent.kind is Kind.WRITER],
            started=[agent.instance for agent in self.ground.agents if agent.kind is Kind.STEADY][:1],
        )
        self.model = Model(self.ground.agents)
        self.daemons: list[DaemonLife] = []
        self.lives = 0
        self.evidence = Evidence(self.ground, self.daemons)
        self.running = Running(self.ground, self.model, self.evidence)
        self.told = Told(self.ground, self.model, self.daemons, self.evidence)
        self.household = Household(self.ground, operators)
        self.gate = Gate()
        self.killed: list[Life] = []  # by the referee, while nobody else could take it for its doing
        self.operators = [
            Operator(self.ground, self.model, self.gate, derived(seed, "operator", n), n, pause)
            for n in range(operators)
        ]
        self.status_watchers = [
            StatusWatcher(self.ground, derived(seed, "watcher", 0), "watcher-0"),
            StatusWatcher(self.ground, derived(seed, "watcher", 1), "watcher-1", hangs_up=0.6),
        ]
        self.event_watchers = [
            EventWatcher(self.ground, derived(seed, "events", 0), "events-0"),
            EventWatcher(self.ground, derived(seed, "events", 1), "events-1", hangs_up=0.6),
        ]
        self._channel = open_channel(self.ground)
        self.stub = pb_grpc.HostManagerServiceStub(self._channel)
        self.ground.bring_strangers()
        for thread in (*self.operators, *self.watchers):
            thread.start()

    @property
    def daemon(self) -> DaemonLife:
        return self.daemons[-1]

    @property
    def watchers(self) -> list[Watcher[Any]]:
        return [*self.status_watchers, *self.event_watchers]

    # --- the daemon

    def start_daemon(self, failpoints: str = "") -> DaemonLife:
        daemon = DaemonLife(self.ground, self.lives, failpoints, self.program)
        self.lives += 1
        self.daemons.append(daemon)
        if len(self.daemons) > LOGS_KEPT:
            self.daemons[-LOGS_KEPT - 1].log.unlink(missing_ok=True)
        return daemon

    def wait_until_serving(self) -> None:
        """Raises DiedError, or a Violation when it does neither serve nor die."""
        if not eventually(lambda: self.daemon.serves(self.stub)):
            text = f"a daemon does not serve within {PATIENCE:g} s"
            raise Violation(Invariant.I3, text, self.daemon.log_tail())

    def upgrade_daemon(self) -> None:
        """Have it become itself anew, while it is asked for things. Raises DiedError, or a Violation."""
        before = self._epoch()
        self.gate.open()
        self.daemon.process.send_signal(signal.SIGUSR2)
        if not eventually(lambda: self.daemon.serves(self.stub) and self._epoch() not in (before, "")):
            text = f"a daemon that is upgraded does not serve within {PATIENCE:g} s"
            raise Violation(Invariant.I3, text, self.daemon.log_tail())

    def _epoch(self) -> str:
        """Empty while nobody answers."""
        try:
            return self.stub.GetStatus(pb.GetStatusRequest(), timeout=5).manager.epoch
        except grpc.RpcError:
            return ""

    # --- agents that die

    def kill_agents(self, rng: random.Random, count: int) -> list[Life]:
        """End that many of those that live, descendants too, by SIGKILL; the ones that were."""
        self.ground.journals.read()
        living = [life for agent in self.ground.agents for life in self.ground.journals.alive(agent.instance)]
        chosen = rng.sample(living, min(count, len(living)))
        return [life for life in chosen if kill(life)]

    # --- checks

    def settle(self) -> None:
        """Let nobody ask for anything any more, and check everything that can be checked of a daemon that
        lives. Raises Violation, or DiedError when it does not live."""
        self.gate.close(PATIENCE)
        self.bait.check()
        self.bait.take_from_outputs()
        self.must_be_intact()
        self.running.convergence(self.daemon, self.stub)
        self.running.births_and_deaths()
        self.running.alive_and_well()
        self.told.agreement(self.daemon, self.stub, self.status_watchers)
        self.told.truth(self.status_watchers)
        self.household.check(self.daemon)
        self.daemon.must_live()
        self.model.settled()

    def settle_alone(self) -> None:
        """The same without watchers, and check what the daemon holds then."""
        self.settle()
        self.rest_watchers()
        self.household.check_holdings(self.daemon, self.stub)
        self.household.check_restarts(self.daemon, self.stub, self._restart_all)
        self.resume_watchers()
        self.running.births_and_deaths()

    def _restart_all(self) -> None:
        entries = self.model.asking("restart", {}, [agent.instance for agent in self.ground.agents])
        try:
            self.stub.Restart(pb.RestartRequest(all=True), timeout=PATIENCE)
        except grpc.RpcError as error:
            self.model.lost(entries)
            raise DiedError(f"the daemon does not restart everything: {error.code().name}") from error
        self.model.answered({}, entries)
        self.running.convergence(self.daemon, self.stub)

    def must_be_intact(self) -> None:
        """Raises what went wrong in a thread of the referee's own."""
        for operator in self.operators:
            if operator.broken is not None:
                raise operator.broken
        for watcher in self.watchers:
            watcher.must_be_content()

    def finish(self) -> None:
        """End the last daemon in order: nothing is to be left, and no line of output to be lost."""
        self.settle()
        self.rest_watchers()
        with self.model.alone(agent.instance for agent in self.ground.agents):
            everybody = [agent.instance for agent in self.ground.agents]
            self.model.asking("the end", {}, everybody)
            code = self.daemon.end(PATIENCE)
        if code != 0:
            raise Violation(Invariant.I3, f"the daemon ends with {code}", self.daemon.log_tail())
        self.running.births_and_deaths()
        left = proc.marked(self.ground.folder)
        for instance, pids in left.items():
            text = f"the daemon brought everything down and ended, and of {instance} {pids} live"
            raise Violation(Invariant.I8, text, self.evidence.of(instance))
        for life in self.ground.journals.lives.values():
            if life.alive():
                text = f"the daemon brought everything down and ended, and {life} lives"
                raise Violation(Invariant.I8, text, self.evidence.of(life.instance))
        self.bait.check()
        self.bait.take_up()
        check_output(self.ground)

    def rest_watchers(self) -> None:
        for watcher in self.watchers:
            watcher.rest()

    def resume_watchers(self) -> None:
        for watcher in self.watchers:
            watcher.resume()

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.gate.finish()
        for watcher in self.watchers:
            watcher.finish()
        for daemon in self.daemons:
            daemon.kill()
        self.ground.clear()
        self._channel.close()
        for thread in (*self.operators, *self.watchers):
            thread.join(PATIENCE)


def kill(life: Life) -> bool:
    """SIGKILL to exactly this process, and wait until it is gone; False when it was gone before."""
    try:
        pidfd = os.pidfd_open(life.name.pid)
    except ProcessLookupError:
        return False
    try:
        if not life.alive():
            return False
        life.killed = float("inf")  # from now on; until it is known when
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(PATIENCE * 1000)
        life.killed = proc.now()
        return True
    except ProcessLookupError:
        life.killed = None
        return False
    finally:
        os.close(pidfd)
