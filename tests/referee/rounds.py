"""Rounds: a daemon starts, passes all checks, works under load, and dies."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from hostmanager_server.failpoints import Point

from tests.referee.daemons import DiedError
from tests.referee.journals import AgentProcess
from tests.referee.match import Match, derived
from tests.referee.polling import PATIENCE, poll

ALONE_EVERY = 10  # rounds between two checks of the daemon's resources
_AFTER_A_FAILPOINT = 1.0  # s of requests in which an armed daemon may reach its failpoint


class Upgrade(Enum):
    """The kind of daemon upgrade in a round."""

    NONE = "none"
    WHOLE = "whole"  # under load, with checks afterwards
    CUT_SHORT = "cut short"  # right before the kill of the daemon


@dataclass(frozen=True, slots=True)
class Round:
    """The events of one round, drawn from the seed. Times are in s."""

    failpoint: Point | None  # where the daemon kills itself
    passes: int  # the pass of the failpoint at which the daemon dies
    early: float | None  # from the start of an unchecked daemon to its kill
    load: float  # duration of requests before the kill
    before: int  # agents killed right before the daemon
    dead: int  # agents killed while no daemon runs
    quiet: int  # agents killed while there are no requests
    pause: float  # time without a daemon
    upgrade: Upgrade
    insist: bool = False  # wait for the failpoint up to PATIENCE

    @property
    def armed(self) -> str:
        """Value of HOSTMANAGER_FAILPOINTS; empty for none."""
        return f"{self.failpoint.value}:{self.passes}=kill" if self.failpoint is not None else ""

    @staticmethod
    def at(point: Point) -> Round:
        """Return a plan in which the daemon dies at the first pass of this failpoint."""
        return Round(
            failpoint=point, passes=1, early=None, load=0.0, before=0, dead=0, quiet=0, pause=0.0,
            upgrade=Upgrade.NONE, insist=True,
        )  # fmt: skip

    @staticmethod
    def draw(rng: random.Random) -> Round:
        """Return a random plan."""
        failpoint = rng.choice(list(Point)) if rng.random() < 0.5 else None
        return Round(
            failpoint=failpoint,
            passes=rng.choice([1, 1, 2, 3, 5, 8]),
            early=rng.uniform(0.15, 0.8) if rng.random() < 0.15 else None,
            load=rng.uniform(0.02, 0.5),
            before=rng.choice([0, 0, 0, 1, 3]),
            dead=rng.choice([0, 0, 0, 1, 3, 10]),
            quiet=rng.choice([0, 0, 0, 0, 1, 2]),
            pause=rng.choice([0.0, 0.0, 0.05, 0.2]),
            upgrade=rng.choices(list(Upgrade), [18, 1, 1])[0],
        )


@dataclass(slots=True)
class Tally:
    """Counts over all rounds so far."""

    rounds: int = 0
    daemons: int = 0
    kills: int = 0  # kills of the daemon at random moments
    points: Counter[str] = field(default_factory=Counter)  # deaths at failpoints
    upgrades: int = 0
    agents: int = 0  # agents killed by the referee
    answers: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """Return the counts for the JSON summary."""
        return {
            "rounds": self.rounds, "daemons": self.daemons, "random_kills": self.kills,
            "failpoints": dict(self.points), "upgrades": self.upgrades, "agents_killed": self.agents,
            "answers": dict(self.answers),
        }  # fmt: skip


class Rounds:
    """The rounds of a match, one after the other."""

    def __init__(self, match: Match) -> None:
        self._match = match
        self._rest = threading.Event()
        self.tally = Tally()
        self._killed_unseen: list[AgentProcess] = []  # killed while there was no daemon

    def as_dict(self) -> dict[str, object]:
        """Return the counts for the JSON summary."""
        return self.tally.as_dict()

    def play(self, number: int) -> None:
        """Play a random round. Raises Breach."""
        self.play_plan(Round.draw(derived(self._match.seed, "round", number)), number)

    def play_plan(self, plan: Round, number: int) -> None:
        """Play a round by this plan. Raises Breach."""
        match, rng = self._match, derived(self._match.seed, "kills", number)
        match.start_daemon(plan.armed)
        match.gate.open()
        if plan.early is not None:
            self._rest.wait(plan.early)
            self._die()
            self._killed_unseen.clear()  # a daemon that observed these exits may have died with its event log
            match.start_daemon(plan.armed)
        self._check(plan, rng, alone=number % ALONE_EVERY == 0)
        match.links.plant()
        match.gate.open()
        if plan.upgrade is Upgrade.CUT_SHORT:
            match.daemon.process.send_signal(signal.SIGUSR2)
        if match.daemon.failpoints:
            poll(lambda: not match.daemon.alive(), PATIENCE if plan.insist else _AFTER_A_FAILPOINT)
        else:
            self._rest.wait(plan.load)
        self.tally.agents += len(match.kill_agents(rng, plan.before))
        self._die()
        self._rest.wait(plan.pause)
        self._killed_unseen = match.kill_agents(rng, plan.dead)
        self.tally.agents += len(self._killed_unseen)
        self.tally.rounds += 1
        self._count()

    def finish(self) -> None:
        """Start, check and stop a last daemon. Raises Breach."""
        self._match.start_daemon()
        self._check(
            Round.draw(derived(self._match.seed, "end")), derived(self._match.seed, "end"), alone=True
        )
        self._match.finish()
        self._count()

    def _check(self, plan: Round, rng: random.Random, *, alone: bool) -> None:
        """Check the daemon; if an armed daemon dies meanwhile, check the next one."""
        match = self._match
        while True:
            try:
                match.wait_until_serving()
                match.settle()
                match.watches.check_exits(match.daemon, match.event_watchers, self._killed_unseen)
                if plan.quiet:
                    killed = match.kill_agents(rng, plan.quiet)
                    self.tally.agents += len(killed)
                    match.settle()
                    match.watches.check_exits(match.daemon, match.event_watchers, killed)
                if plan.upgrade is Upgrade.WHOLE:
                    match.upgrade_daemon()
                    self.tally.upgrades += 1
                    match.settle()
                if alone:
                    match.settle_alone()
            except DiedError:
                if not match.daemon.failpoints:
                    raise
                self._die()
                self._killed_unseen.clear()
                match.start_daemon()
                match.resume_watchers()
                match.gate.open()
            else:
                return

    def _die(self) -> None:
        daemon = self._match.daemon
        if daemon.alive():
            daemon.kill()
            self.tally.kills += 1
        elif daemon.failpoints:
            self.tally.points[daemon.failpoints.partition(":")[0]] += 1

    def _count(self) -> None:
        self.tally.daemons = self._match.daemons_started
        self.tally.answers = Counter()
        for operator in self._match.operators:
            self.tally.answers.update(operator.answers)
