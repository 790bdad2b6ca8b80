"""A simulated host: processes that misbehave, under a driver and a supervisor that keep their contracts."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostmanager_server.core import plan
from hostmanager_server.core.actions import Launch, Remove, Stop
from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import (
    Exited,
    ExitStatus,
    Gone,
    Instant,
    Ready,
    RunEvent,
    RunKey,
    Started,
    StartFailed,
)
from hostmanager_server.core.facts import fold
from hostmanager_server.core.lifecycle import decide, next_deadline
from hostmanager_server.core.model import Instance, State
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Target
from hostmanager_server.core.stability import stability

from tests.core.instances import with_fields


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the processes of an instance behave from the next launch on."""

    start_fails: bool = False
    ready_after: float | None = 0.0  # s; None: never
    ignores: frozenset[int] = frozenset()  # of INT and TERM
    leaves_grandchild: bool = False


GOOD = Behaviour()


@dataclass(slots=True)
class Process:
    """A process tree: the main process, and perhaps a grandchild that outlives it."""

    behaviour: Behaviour
    born: float
    main: bool = True
    grandchild: bool = False
    ready_said: bool = False

    @property
    def alive(self) -> bool:
        return self.main or self.grandchild


@dataclass(slots=True)
class World:
    """The host. Its `step` is what the supervisor does between two waits; it checks what must always hold."""

    now: Instant = field(default_factory=lambda: Instant(1000.0, 1e9))
    instances: dict[str, Instance] = field(default_factory=dict)
    config: dict[str, InstanceSpec] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    processes: dict[RunKey, Process] = field(default_factory=dict)
    mail: list[RunEvent] = field(default_factory=list)  # posted, not yet folded
    gone: set[RunKey] = field(default_factory=set)  # whose end was folded
    old_mail: list[RunEvent] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    notes: list[LogEntry] = field(default_factory=list)

    # --- the driver

    def alive(self, instance_id: str) -> list[RunKey]:
        return [k for k, p in self.processes.items() if k.instance_id == instance_id and p.alive]

    def launch(self, action: Launch) -> None:
        key = action.run
        assert not self.alive(key.instance_id), f"I1: {key} is launched beside {self.alive(key.instance_id)}"
        assert key.number > self.numbers.get(key.instance_id, 0), f"{key}: the number was used before"
        self.numbers[key.instance_id] = key.number
        behaviour = self.behaviours.get(key.instance_id, GOOD)
        if behaviour.start_fails:
            self.mail.append(StartFailed(key, "no such file", self.now))
            return
        self.processes[key] = Process(behaviour, self.now.mono, grandchild=behaviour.leaves_grandchild)
        self.mail.append(Started(key, 1000 + key.number, self.now))
        self.become_ready()

    def stop(self, action: Stop) -> None:
        assert action.run not in self.gone, f"{action.run} is gone, and yet it is sent signal {action.signum}"
        process = self.processes.get(action.run)
        if process is None:
            return
        takes = action.signum == signal.SIGKILL or action.signum not in process.behaviour.ignores
        if takes and process.main:
            self.end_main(action.run, ExitStatus(signal=action.signum))
        if takes and action.whole_tree:
            self.end_grandchild(action.run)

    def end_main(self, key: RunKey, status: ExitStatus) -> None:
        process = self.processes[key]
        process.main = False
        self.mail.append(Exited(key, status, self.now))
        if not process.grandchild:
            self.mail.append(Gone(key, self.now))

    def end_grandchild(self, key: RunKey) -> None:
        process = self.processes[key]
        if process.grandchild:
            process.grandchild = False
            if not process.main:
                self.mail.append(Gone(key, self.now))

    def become_ready(self) -> None:
        for key, process in self.processes.items():
            after = process.behaviour.ready_after
            if not process.main or process.ready_said or after is None:
                continue
            if self.now.mono >= process.born + after:
                process.ready_said = True
                self.mail.append(Ready(key, self.now))

    # --- the supervisor

    def deliver(self) -> None:
        """Fold all that was posted."""
        while self.mail:
            event = self.mail.pop(0)
            self.old_mail.append(event)
            instance = self.instances.get(event.run.instance_id)
            if instance is None:
                continue
            if isinstance(event, Gone | StartFailed):
                self.gone.add(event.run)
            self.instances[event.run.instance_id] = fold(instance, event)

    def step(self) -> None:
        """Decide on every instance until nothing changes any more."""
        for _ in range(50):
            moved = [self._decide(instance_id) for instance_id in list(self.instances)]
            if not any(moved):
                break
        else:
            raise AssertionError(f"the instances do not come to rest: {self.instances}")
        for instance in self.instances.values():
            self.check(instance)

    def _decide(self, instance_id: str) -> bool:
        old = self.instances[instance_id]
        dependents = [i.instance_id for i in self.instances.values() if instance_id in i.spec.depends_on]
        instance = with_fields(
            old,
            waiting_for=plan.waiting_for(self.instances, old),
            held_by=plan.held_by(self.instances, old, dependents),
        )
        decision = decide(instance, self.now)
        new = decision.instance
        self.instances[instance_id] = new
        assert (
            old.standing.observed_generation
            <= new.standing.observed_generation
            <= new.wanted.generation
            == old.wanted.generation
        )
        assert new.standing.runs >= old.standing.runs
        removed = False
        for action in decision.actions:
            match action:
                case Launch():
                    self.launch(action)
                case Stop():
                    assert new.observed.run is not None
                    assert action.run == new.run_key()
                    self.stop(action)
                case LogEntry():
                    self.notes.append(action)
                case Remove():
                    assert not self.alive(instance_id), f"I8: {instance_id} leaves the list alive"
                    del self.instances[instance_id]
                    removed = True
        if not removed:
            again = decide(new, self.now)
            assert again.instance == new, "deciding twice changes something the second time"
            assert not again.actions, "deciding twice does something the second time"
        return removed or new != old

    def check(self, i: Instance) -> None:
        """What must hold of an instance whenever the supervisor goes to sleep."""
        if i.observed.run is None:
            assert not self.alive(i.instance_id), f"{i.instance_id} lives and is taken for dead"
        if i.standing.state in (State.DOWN, State.START_AT, State.START, State.UNKNOWN):
            assert i.observed.run is None, (
                f"I8: {i.instance_id} is {i.standing.state.value}, and {i.observed.run} is alive"
            )
        else:
            assert i.observed.run is not None, (
                f"{i.instance_id} is {i.standing.state.value} with nothing alive"
            )
        assert not (i.should_end and i.standing.state is State.UP and not i.observed.held_by), (
            f"{i.instance_id} is not stopped"
        )
        match i.standing.state:
            case State.START_AT | State.WAIT_START | State.WAIT_DEAD:
                assert i.standing.deadline is not None, (
                    f"{i.instance_id} could stay {i.standing.state.value} for ever"
                )
            case State.START:
                assert i.observed.waiting_for, f"{i.instance_id} waits to start, for nothing"
            case State.DOWN:
                assert i.settled, f"{i.instance_id} stays down although {i.wanted.target.value} is wanted"
            case State.UP | State.UNKNOWN:
                pass
        deadline = next_deadline(i)
        assert deadline is None or deadline.mono > self.now.mono, f"{i.instance_id} would make the loop spin"
        assert 0.0 <= stability(i.standing.fail_times, self.now) <= 1.0
        assert (stability(i.standing.fail_times, self.now) == 1.0) is (not i.standing.fail_times)

    # --- time

    def advance(self, seconds: float) -> None:
        """Let time pass, waking up at each deadline and at each moment something becomes ready."""
        end = self.now.plus(seconds)
        for _ in range(5000):
            moments = [d.mono for i in self.instances.values() if (d := next_deadline(i)) is not None]
            moments += [
                p.born + p.behaviour.ready_after
                for p in self.processes.values()
                if p.main and not p.ready_said and p.behaviour.ready_after is not None
            ]
            coming = min((m for m in moments if m <= end.mono), default=None)
            was = {
                n: (i.standing.fail_times, stability(i.standing.fail_times, self.now))
                for n, i in self.instances.items()
            }
            self.now = end if coming is None else self.now.plus(max(0.0, coming - self.now.mono))
            if coming is not None and self.now.mono < coming:
                self.now = Instant(coming, self.now.wall)
            self._check_stability(was)
            self.become_ready()
            self.deliver()
            self.step()
            if coming is None and not self.mail:
                return
        raise AssertionError("too much happens in this time: the loop spins")

    def _check_stability(self, was: Mapping[str, tuple[tuple[Instant, ...], float]]) -> None:
        for name, (fail_times, before) in was.items():
            assert stability(fail_times, self.now) >= before, f"{name} loses stability without failing"

    # --- what it is to come to

    def expected_up(self, instance_id: str) -> bool:
        """Whether it is to be up once everything behaves."""
        i = self.instances.get(instance_id)
        if i is None or i.retired:
            return False
        if i.wanted.target is Target.PASSIVE:
            return i.observed.run is not None
        if i.wanted.target is not Target.UP or i.standing.finished:
            return False
        return i.observed.run is not None or (
            i.spec.process is not None and all(self.expected_up(d) for d in i.spec.depends_on)
        )

    def host(self) -> HostSpec:
        return HostSpec("host", tuple(self.config.values()))
