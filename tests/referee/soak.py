"""A soak: one life of the daemon in which something is killed every second, and what that life costs."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping

from hostmanager.v1 import host_manager_pb2 as pb

from tests.referee import proc
from tests.referee.daemons import COMMAND
from tests.referee.ground import Kind
from tests.referee.lives import Life
from tests.referee.looking import PATIENCE, eventually
from tests.referee.match import Match, derived, kill
from tests.referee.model import RELOAD, UP
from tests.referee.samples import MIB, Holdings, Sample, growth, holdings, take
from tests.referee.verdict import Invariant, Violation

CAST: Mapping[Kind, int] = {
    Kind.STEADY: 18, Kind.CRASHER: 6, Kind.DEAF: 3, Kind.FORKER: 9, Kind.WRITER: 6, Kind.SLOW: 7,
}  # fmt: skip
BEAT = 0.25  # s
OPERATORS = 2
PAUSE = 1.5  # s, the longest time between two requests of an operator
WARM_UP = 20.0  # s of the same before the baseline is taken: pools, caches
EVERY = 1.0  # s between two deeds
LOOK = 5.0  # s between two looks at the daemon
SETTLE = 300.0  # s between two times at which all is let come to rest, and checked
TELL = 60.0  # s between two lines of progress
SIGNAL_HEARD = 5.0  # s until a reload that was asked for by a signal has been carried out
# Idle threads of gRPC end after some 20 s.
REST = 90.0
# Beside what the allocator keeps. The event log is full after 10,000 events, which may be in the second half.
MAY_GROW = 3 * MIB
EVENTS_KEPT, EVENT_SIZE = 10_000, 600  # and bytes of each


class Soak:
    """A match in which the daemon does not die. `say` is told how it goes."""

    def __init__(self, match: Match, duration: float, say: Callable[[str], None]) -> None:
        self._match = match
        self._duration = duration
        self._say = say
        self._rng = derived(match.seed, "soak")
        self._rest = threading.Event()
        self._killed: list[Life] = []
        self.deeds: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.baseline: Holdings | None = None
        self.final: Holdings | None = None
        self.events = 0

    def play(self) -> None:
        """All of it. Raises Violation."""
        match = self._match
        match.start_daemon()
        match.wait_until_serving()
        self._hustle(min(WARM_UP, self._duration))
        self._all_up()
        self.baseline = self._at_rest(None)
        self._say(f"baseline: {self._holdings(self.baseline)}")
        self._hustle(self._duration, measured=True)
        self._all_up()
        self.final = self._at_rest(self.baseline)
        self.events = self._count_events()
        self._judge()
        match.resume_watchers()
        match.finish()

    def _hustle(self, duration: float, *, measured: bool = False) -> None:
        """Kill something every second."""
        match = self._match
        match.gate.open()
        began = told = settled = looked = proc.now()
        due = began
        while (moment := proc.now()) < began + duration:
            match.daemon.must_live()
            self._deed()
            if moment - looked >= LOOK:
                looked = moment
                self._look(measured)
            if moment - settled >= SETTLE:
                match.settle()
                self._exits_told()
                settled = proc.now()
                match.gate.open()
            if measured and moment - told >= TELL:
                told = moment
                self._tell(moment - began)
            due = max(due + EVERY, moment)
            self._rest.wait(max(0.0, due - proc.now()))
        match.gate.close(PATIENCE)

    def _look(self, measured: bool) -> None:
        match = self._match
        if measured:
            self.samples.append(take(match.daemon.pid))
        match.must_be_intact()
        match.ground.check_strangers()
        match.running.births_and_deaths()
        match.told.truth(match.status_watchers)

    # --- what is done every second

    def _deed(self) -> None:
        deeds: list[tuple[int, str, Callable[[random.Random], None]]] = [
            (50, "agents killed", self._kill_leader),
            (20, "descendants killed", self._kill_descendant),
            (12, "watchers cut off", self._cut_watcher),
            (12, "command line calls", self._call),
            (6, "reloads by signal", self._reload),
        ]
        (_, name, deed) = self._rng.choices(deeds, [weight for weight, _, _ in deeds])[0]
        deed(self._rng)
        self.deeds[name] += 1

    def _kill_leader(self, rng: random.Random) -> None:
        self._kill_one(rng, leads=True)

    def _kill_descendant(self, rng: random.Random) -> None:
        self._kill_one(rng, leads=False)

    def _kill_one(self, rng: random.Random, *, leads: bool) -> None:
        journals = self._match.ground.journals
        journals.read()
        living = [life for agent in self._match.ground.agents for life in journals.alive(agent.instance)]
        chosen = [life for life in living if life.leads is leads]
        if chosen and kill(life := rng.choice(chosen)):
            self._killed.append(life)

    def _cut_watcher(self, rng: random.Random) -> None:
        rng.choice(self._match.watchers).hang_up()

    def _call(self, rng: random.Random) -> None:
        words = rng.choice([["status"], ["events", "-n", "20"], ["show", "steady-0"], ["logs", "writer-0"]])
        address = f"unix:{self._match.ground.socket}"
        done = subprocess.run(
            [*COMMAND, "--address", address, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"hostmanager {' '.join(words)} ends with {done.returncode}: {done.stderr}")

    def _reload(self, rng: random.Random) -> None:
        guests = [agent.instance for agent in self._match.ground.agents if agent.guest]
        with self._match.model.alone(guests):
            entries = self._match.model.asking(RELOAD, {}, guests)
            self._match.daemon.process.send_signal(signal.SIGHUP)
        for asked in entries:  # nobody is told when it is done
            asked.answered = proc.now() + SIGNAL_HEARD

    # --- before and after

    def _all_up(self) -> None:
        """So that what is held can be compared."""
        match = self._match
        with match.model.alone(agent.instance for agent in match.ground.agents):
            match.ground.write_site(guests=True)
            targets = {agent.instance: UP for agent in match.ground.agents}
            entries = match.model.asking("all up", targets)
            change = pb.TargetChange(all=True, target_state=pb.TARGET_STATE_UP)
            match.stub.Update(pb.UpdateRequest(requests=[change], reload_config=True), timeout=PATIENCE)
            match.model.answered(targets, entries)
        match.settle()
        self._exits_told()

    def _exits_told(self) -> None:
        match = self._match
        match.told.exits(match.daemon, match.event_watchers, self._killed)
        self._killed.clear()

    def _at_rest(self, baseline: Holdings | None) -> Holdings:
        """What is held with no client but the one that asks, and all instances up; at the baseline again if
        there is one, as far as it gets there."""
        match = self._match
        match.rest_watchers()
        found = holdings(match.daemon.pid)
        since = proc.now()

        def at_rest() -> bool:
            nonlocal found, since
            now = holdings(match.daemon.pid)
            if baseline is not None:
                found = now
                return not now.beyond(baseline)
            if now != found:
                found, since = now, proc.now()
            return proc.now() - since > WARM_UP / 4 and self._are_all_up()

        eventually(at_rest, REST)
        if baseline is None:
            match.resume_watchers()
        return found

    def _are_all_up(self) -> bool:
        states = self._match.stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE).child_states
        return all(state.next_action == pb.NEXT_ACTION_UP for state in states)

    def _count_events(self) -> int:
        request = pb.ListEventsRequest(newest=1)
        return int(self._match.stub.ListEvents(request, timeout=PATIENCE).events[-1].sequence)

    def _judge(self) -> None:
        assert self.baseline is not None
        assert self.final is not None
        more = self.final.beyond(self.baseline)
        if more:
            text = f"{REST:g} s after the last request the daemon has more than at the baseline: {more}"
            raise Violation(Invariant.I6, text, [str(self.baseline), str(self.final)])
        allowed = MAY_GROW + (EVENTS_KEPT * EVENT_SIZE if self.events < 2 * EVENTS_KEPT else 0)
        grown = growth(self.samples)
        if grown > allowed:
            text = f"resident memory grew by {grown / MIB:.1f} MiB within the second half"
            raise Violation(Invariant.I6, text, [str(sample) for sample in self.samples[-20:]])

    # --- telling

    def _tell(self, elapsed: float) -> None:
        s = self.samples[-1]
        self._say(
            f"{elapsed / 60:.0f} min: {s.descriptors} descriptors, {s.threads} threads, "
            f"{s.resident / MIB:.1f} MiB, {s.zombies} zombies; {self._done()}"
        )

    def _done(self) -> str:
        return ", ".join(f"{n} {what}" for what, n in sorted(self.deeds.items()))

    @staticmethod
    def _holdings(held: Holdings) -> str:
        return f"{held.descriptors.total()} descriptors, {held.threads.total()} threads"

    def table(self) -> str:
        """For docs/explanation/robustness.md."""
        assert self.baseline is not None
        assert self.final is not None
        first, last = self.samples[0], self.samples[-1]
        span = last.at - first.at
        resident = [s.resident / MIB for s in self.samples]
        rows = [
            ("duration", f"{self._duration / 60:.0f} min, {len(self._match.ground.agents)} agents"),
            ("done to it", self._done()),
            ("requests", str(sum(sum(o.answers.values()) for o in self._match.operators))),
            ("events", str(self.events)),
            (
                "descriptors, before and after",
                f"{self.baseline.descriptors.total()}, {self.final.descriptors.total()}",
            ),
            ("threads, before and after", f"{self.baseline.threads.total()}, {self.final.threads.total()}"),
            ("descriptors meanwhile, at most", str(max(s.descriptors for s in self.samples))),
            ("threads meanwhile, at most", str(max(s.threads for s in self.samples))),
            ("zombies seen, at most", str(max(s.zombies for s in self.samples))),
            (
                "resident, first, last, at most",
                f"{resident[0]:.1f}, {resident[-1]:.1f}, {max(resident):.1f} MiB",
            ),
            ("resident, growth in the second half", f"{growth(self.samples) / MIB:+.2f} MiB"),
            ("CPU", f"{(last.cpu - first.cpu) / span:.1%} of a core"),
            ("woken", f"{(last.switches - first.switches) / span:.0f} times a second"),
        ]
        return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])

    def as_dict(self) -> dict[str, object]:
        return {
            "duration": self._duration, "deeds": dict(self.deeds), "events": self.events,
            "growth": growth(self.samples), "samples": len(self.samples),
            "resident": [s.resident for s in self.samples[:: max(1, len(self.samples) // 60)]],
        }  # fmt: skip
