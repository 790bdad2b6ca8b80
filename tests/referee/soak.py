"""Soak test: one daemon under kills and requests every second, and its use of resources."""

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
from tests.referee.host import AgentKind
from tests.referee.invariants import Breach, Invariant
from tests.referee.journals import AgentProcess
from tests.referee.match import Match, derived, kill
from tests.referee.polling import PATIENCE, poll
from tests.referee.samples import MIB, Resources, Sample, growth, held_resources, take
from tests.referee.target_model import RELOAD, UP

AGENTS: Mapping[AgentKind, int] = {
    AgentKind.STEADY: 18, AgentKind.CRASHER: 6, AgentKind.DEAF: 3,
    AgentKind.FORKER: 9, AgentKind.WRITER: 6, AgentKind.SLOW: 7,
}  # fmt: skip
BEAT = 0.25  # s
OPERATORS = 2
PAUSE = 1.5  # longest time between two requests of an operator, in s
WARM_UP = 20.0  # s of load before the baseline, which fills pools and caches
EVERY = 1.0  # s between two actions
SAMPLE = 5.0  # s between two samples of the daemon
SETTLE = 300.0  # s between two full checks at rest
PROGRESS = 60.0  # s between two progress lines
SIGNAL_HANDLED = 5.0  # s until a reload by signal is complete
# Idle threads of gRPC end after some 20 s.
REST = 90.0
# The allocator may keep this much. The event log fills up after 10,000 events, perhaps in the second half.
MAY_GROW = 3 * MIB
EVENTS_KEPT, EVENT_SIZE = 10_000, 600  # number, and bytes of each


class Soak:
    """A match in which the daemon does not die; `log` gets progress lines."""

    def __init__(self, match: Match, duration: float, log: Callable[[str], None]) -> None:
        self._match = match
        self._duration = duration
        self._log = log
        self._rng = derived(match.seed, "soak")
        self._rest = threading.Event()
        self._killed: list[AgentProcess] = []
        self.actions: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.baseline: Resources | None = None
        self.final: Resources | None = None
        self.events = 0

    def play(self) -> None:
        """Run the whole soak. Raises Breach."""
        match = self._match
        match.start_daemon()
        match.wait_until_serving()
        self._apply_load(min(WARM_UP, self._duration))
        self._all_up()
        self.baseline = self._at_rest(None)
        self._log(f"baseline: {self._describe(self.baseline)}")
        self._apply_load(self._duration, measured=True)
        self._all_up()
        self.final = self._at_rest(self.baseline)
        self.events = self._count_events()
        self._judge()
        match.resume_watchers()
        match.finish()

    def _apply_load(self, duration: float, *, measured: bool = False) -> None:
        """Do one random action every second, and sample the daemon."""
        match = self._match
        match.gate.open()
        began = logged = settled = sampled = proc.now()
        due = began
        while (moment := proc.now()) < began + duration:
            match.daemon.require_alive()
            self._act()
            if moment - sampled >= SAMPLE:
                sampled = moment
                self._sample(measured=measured)
            if moment - settled >= SETTLE:
                match.settle()
                self._check_exits()
                settled = proc.now()
                match.gate.open()
            if measured and moment - logged >= PROGRESS:
                logged = moment
                self._log_progress(moment - began)
            due = max(due + EVERY, moment)
            self._rest.wait(max(0.0, due - proc.now()))
        match.gate.close(PATIENCE)

    def _sample(self, *, measured: bool) -> None:
        match = self._match
        if measured:
            self.samples.append(take(match.daemon.pid))
        match.raise_failures()
        match.host.check_unrelated_processes()
        match.processes.check_starts_and_exits()
        match.watches.check_truth(match.status_watchers)

    # --- actions

    def _act(self) -> None:
        actions: list[tuple[int, str, Callable[[random.Random], None]]] = [
            (50, "agents killed", self._kill_main_process),
            (20, "descendants killed", self._kill_descendant),
            (12, "watchers cut off", self._cut_watcher),
            (12, "command line calls", self._call),
            (6, "reloads by signal", self._reload),
        ]
        (_, name, action) = self._rng.choices(actions, [weight for weight, _, _ in actions])[0]
        action(self._rng)
        self.actions[name] += 1

    def _kill_main_process(self, rng: random.Random) -> None:
        self._kill_one(rng, main=True)

    def _kill_descendant(self, rng: random.Random) -> None:
        self._kill_one(rng, main=False)

    def _kill_one(self, rng: random.Random, *, main: bool) -> None:
        journals = self._match.host.journals
        journals.read()
        living = [process for agent in self._match.host.agents for process in journals.alive(agent.instance)]
        chosen = [process for process in living if process.is_main is main]
        if chosen and kill(process := rng.choice(chosen)):
            self._killed.append(process)

    def _cut_watcher(self, rng: random.Random) -> None:
        rng.choice(self._match.watchers).disconnect()

    def _call(self, rng: random.Random) -> None:
        words = rng.choice([["status"], ["events", "-n", "20"], ["show", "steady-0"], ["logs", "writer-0"]])
        address = f"unix:{self._match.host.socket}"
        done = subprocess.run(
            [*COMMAND, "--address", address, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(
                f"hostmanager {' '.join(words)} ends with exit code {done.returncode}: {done.stderr}"
            )

    def _reload(self, rng: random.Random) -> None:
        guests = [agent.instance for agent in self._match.host.agents if agent.guest]
        with self._match.model.exclusive(guests):
            entries = self._match.model.begin(RELOAD, {}, guests)
            self._match.daemon.process.send_signal(signal.SIGHUP)
        for request in entries:  # a signal gets no answer
            request.answered = proc.now() + SIGNAL_HANDLED

    # --- before and after

    def _all_up(self) -> None:
        """Bring all instances up, so that samples are comparable."""
        match = self._match
        with match.model.exclusive(agent.instance for agent in match.host.agents):
            match.host.write_site(guests=True)
            targets = {agent.instance: UP for agent in match.host.agents}
            entries = match.model.begin("all up", targets)
            change = pb.TargetChange(all=True, target_state=pb.TARGET_STATE_UP)
            match.stub.Update(pb.UpdateRequest(requests=[change], reload_config=True), timeout=PATIENCE)
            match.model.acknowledge(targets, entries)
        match.settle()
        self._check_exits()

    def _check_exits(self) -> None:
        match = self._match
        match.watches.check_exits(match.daemon, match.event_watchers, self._killed)
        self._killed.clear()

    def _at_rest(self, baseline: Resources | None) -> Resources:
        """Return the daemon's resources without watchers and with all instances up.

        With a baseline, wait until the resources are back at the baseline, at most REST s.
        """
        match = self._match
        match.pause_watchers()
        found = held_resources(match.daemon.pid)
        since = proc.now()

        def at_rest() -> bool:
            nonlocal found, since
            now = held_resources(match.daemon.pid)
            if baseline is not None:
                found = now
                return not now.beyond(baseline)
            if now != found:
                found, since = now, proc.now()
            return proc.now() - since > WARM_UP / 4 and self._are_all_up()

        poll(at_rest, REST)
        if baseline is None:
            match.resume_watchers()
        return found

    def _are_all_up(self) -> bool:
        crashers = {a.instance for a in self._match.host.agents if a.kind is AgentKind.CRASHER}
        states = self._match.stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE).child_states
        steady = [state for state in states if state.instance_id not in crashers]
        return all(state.next_action == pb.NEXT_ACTION_UP for state in steady)

    def _count_events(self) -> int:
        request = pb.ListEventsRequest(newest=1)
        return int(self._match.stub.ListEvents(request, timeout=PATIENCE).events[-1].sequence)

    def _judge(self) -> None:
        assert self.baseline is not None
        assert self.final is not None
        more = self.final.beyond(self.baseline)
        if more:
            text = f"{REST:g} s after the last request the daemon holds more than at the baseline: {more}"
            raise Breach(Invariant.I6, text, [str(self.baseline), str(self.final)])
        allowed = MAY_GROW + (EVENTS_KEPT * EVENT_SIZE if self.events < 2 * EVENTS_KEPT else 0)
        grown = growth(self.samples)
        if grown > allowed:
            text = f"resident memory grew by {grown / MIB:.1f} MiB within the second half"
            raise Breach(Invariant.I6, text, [str(sample) for sample in self.samples[-20:]])

    # --- reports

    def _log_progress(self, elapsed: float) -> None:
        s = self.samples[-1]
        self._log(
            f"{elapsed / 60:.0f} min: {s.descriptors} descriptors, {s.threads} threads, "
            f"{s.resident / MIB:.1f} MiB, {s.zombies} zombies; {self._done()}"
        )

    def _done(self) -> str:
        return ", ".join(f"{n} {what}" for what, n in sorted(self.actions.items()))

    @staticmethod
    def _describe(held: Resources) -> str:
        return f"{held.descriptors.total()} descriptors, {held.threads.total()} threads"

    def table(self) -> str:
        """Return the results as a Markdown table, for docs/explanation/robustness.md."""
        assert self.baseline is not None
        assert self.final is not None
        first, last = self.samples[0], self.samples[-1]
        span = last.at - first.at
        resident = [s.resident / MIB for s in self.samples]
        rows = [
            ("duration", f"{self._duration / 60:.0f} min, {len(self._match.host.agents)} agents"),
            ("actions", self._done()),
            ("requests", str(sum(sum(o.answers.values()) for o in self._match.operators))),
            ("events", str(self.events)),
            (
                "descriptors, before and after",
                f"{self.baseline.descriptors.total()}, {self.final.descriptors.total()}",
            ),
            ("threads, before and after", f"{self.baseline.threads.total()}, {self.final.threads.total()}"),
            ("descriptors meanwhile, at most", str(max(s.descriptors for s in self.samples))),
            ("threads meanwhile, at most", str(max(s.threads for s in self.samples))),
            ("zombies, at most", str(max(s.zombies for s in self.samples))),
            (
                "resident, first, last, at most",
                f"{resident[0]:.1f}, {resident[-1]:.1f}, {max(resident):.1f} MiB",
            ),
            ("resident, growth in the second half", f"{growth(self.samples) / MIB:+.2f} MiB"),
            ("CPU", f"{(last.cpu - first.cpu) / span:.1%} of a core"),
            ("wake-ups", f"{(last.switches - first.switches) / span:.0f} times a second"),
        ]
        return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])

    def as_dict(self) -> dict[str, object]:
        """Return the results for the JSON summary."""
        return {
            "duration": self._duration, "actions": dict(self.actions), "events": self.events,
            "growth": growth(self.samples), "samples": len(self.samples),
            "resident": [s.resident for s in self.samples[:: max(1, len(self.samples) // 60)]],
        }  # fmt: skip
