"""Rounds: in each a daemon starts, is checked, is asked for things, and dies."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from hostmanager_server.failpoints import Point

from tests.referee.daemons import DiedError
from tests.referee.lives import Life
from tests.referee.looking import PATIENCE, eventually
from tests.referee.match import Match, derived

ALONE_EVERY = 10  # rounds between two in which it is looked at what the daemon holds
_AFTER_A_FAILPOINT = 1.0  # s of requests in which an armed daemon is to come to the point


class Upgrade(Enum):
    """Whether the daemon is told to become itself anew."""

    NONE = "none"
    WHOLE = "whole"  # under load, and it is checked afterwards
    CUT_SHORT = "cut short"  # right before it is killed


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen in one round, as the seed has it. Times are in s."""

    failpoint: Point | None  # at which the daemon dies by itself
    passes: int  # how often it passes the point before
    early: float | None  # it is killed so soon after its start, before it is checked
    load: float  # how long it is asked for things before it is killed
    before: int  # agents that are killed right before it
    dead: int  # while there is no daemon
    quiet: int  # while nobody asks for anything
    pause: float  # without a daemon
    upgrade: Upgrade
    insist: bool = False  # let it come to the failpoint, however long that takes

    @property
    def armed(self) -> str:
        return f"{self.failpoint.value}:{self.passes}=kill" if self.failpoint is not None else ""

    @staticmethod
    def at(point: Point) -> Plan:
        """The daemon dies when it first comes to this point."""
        return Plan(
            failpoint=point, passes=1, early=None, load=0.0, before=0, dead=0, quiet=0, pause=0.0,
            upgrade=Upgrade.NONE, insist=True,
        )  # fmt: skip

    @staticmethod
    def draw(rng: random.Random) -> Plan:
        failpoint = rng.choice(list(Point)) if rng.random() < 0.5 else None
        return Plan(
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
    """What was done in the rounds so far."""

    rounds: int = 0
    daemons: int = 0
    kills: int = 0  # of the daemon, at a random moment
    points: Counter[str] = field(default_factory=Counter)  # deaths at failpoints
    upgrades: int = 0
    agents: int = 0  # killed by the referee
    answers: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        return {
            "rounds": self.rounds, "daemons": self.daemons, "random_kills": self.kills,
            "failpoints": dict(self.points), "upgrades": self.upgrades, "agents_killed": self.agents,
            "answers": dict(self.answers),
        }  # fmt: skip


class Rounds:
    """Plays rounds of a match, one after the other."""

    def __init__(self, match: Match) -> None:
        self._match = match
        self._rest = threading.Event()
        self.tally = Tally()
        self._unseen: list[Life] = []  # killed while there was no daemon

    def as_dict(self) -> dict[str, object]:
        return self.tally.as_dict()

    def play(self, number: int) -> None:
        """One round. Raises Violation."""
        self.play_plan(Plan.draw(derived(self._match.seed, "round", number)), number)

    def play_plan(self, plan: Plan, number: int) -> None:
        match, rng = self._match, derived(self._match.seed, "kills", number)
        match.start_daemon(plan.armed)
        match.gate.open()
        if plan.early is not None:
            self._rest.wait(plan.early)
            self._die()
            self._unseen.clear()  # if somebody saw their ends, it may have died with that
            match.start_daemon(plan.armed)
        self._be_checked(plan, rng, alone=number % ALONE_EVERY == 0)
        match.bait.lay()
        match.gate.open()
        if plan.upgrade is Upgrade.CUT_SHORT:
            match.daemon.process.send_signal(signal.SIGUSR2)
        if match.daemon.failpoints:
            eventually(lambda: not match.daemon.alive(), PATIENCE if plan.insist else _AFTER_A_FAILPOINT)
        else:
            self._rest.wait(plan.load)
        self.tally.agents += len(match.kill_agents(rng, plan.before))
        self._die()
        self._rest.wait(plan.pause)
        self._unseen = match.kill_agents(rng, plan.dead)
        self.tally.agents += len(self._unseen)
        self.tally.rounds += 1
        self._count()

    def finish(self) -> None:
        """A last daemon, which ends in order. Raises Violation."""
        self._match.start_daemon()
        self._be_checked(
            Plan.draw(derived(self._match.seed, "end")), derived(self._match.seed, "end"), alone=True
        )
        self._match.finish()
        self._count()

    def _be_checked(self, plan: Plan, rng: random.Random, *, alone: bool) -> None:
        """Check the daemon, or, when it dies meanwhile as it was told to, one that follows it."""
        match = self._match
        while True:
            try:
                match.wait_until_serving()
                match.settle()
                match.told.exits(match.daemon, match.event_watchers, self._unseen)
                if plan.quiet:
                    killed = match.kill_agents(rng, plan.quiet)
                    self.tally.agents += len(killed)
                    match.settle()
                    match.told.exits(match.daemon, match.event_watchers, killed)
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
                self._unseen.clear()
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
        self.tally.daemons = self._match.lives
        self.tally.answers = Counter()
        for operator in self._match.operators:
            self.tally.answers.update(operator.answers)
