"""A simulated host: misbehaving processes under a correct driver and supervisor."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostmanager_server.core import dependencies
from hostmanager_server.core.actions import Launch, Remove, Stop
from hostmanager_server.core.counters import next_deadline
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
from hostmanager_server.core.lifecycle import decide
from hostmanager_server.core.model import Instance, Outcome, State
from hostmanager_server.core.spec import HostSpec, InstanceSpec, StartCondition, Target
from hostmanager_server.core.stability import stability


@dataclass(frozen=True, slots=True)
class AgentBehaviour:
    """The behaviour of an instance's processes from the next launch on."""

    start_fails: bool = False
    ready_after: float | None = 0.0  # s; None: never
    ignores: frozenset[int] = frozenset()  # of SIGINT and SIGTERM
    leaves_grandchild: bool = False


GOOD = AgentBehaviour()
EVERY = 50.0  # s between two scheduled runs


@dataclass(slots=True)
class Process:
    """A process tree: a main process, and possibly a grandchild that outlives the main process."""

    behaviour: AgentBehaviour
    born: float
    main: bool = True
    grandchild: bool = False
    ready_posted: bool = False

    @property
    def alive(self) -> bool:
        return self.main or self.grandchild


@dataclass(slots=True)
class SimulatedHost:
    """A host with a driver and a supervisor.

    `step` does the work of the supervisor between two waits, and checks the invariants.
    """

    now: Instant = field(default_factory=lambda: Instant(1000.0, 1e9))
    instances: dict[str, Instance] = field(default_factory=dict)
    config: dict[str, InstanceSpec] = field(default_factory=dict)
    behaviours: dict[str, AgentBehaviour] = field(default_factory=dict)
    processes: dict[RunKey, Process] = field(default_factory=dict)
    posted: list[RunEvent] = field(default_factory=list)  # posted, not yet folded
    gone: set[RunKey] = field(default_factory=set)  # runs with a folded end
    folded: list[RunEvent] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    entries: list[LogEntry] = field(default_factory=list)

    # --- the driver

    def alive(self, instance_id: str) -> list[RunKey]:
        return [k for k, p in self.processes.items() if k.instance_id == instance_id and p.alive]

    def launch(self, action: Launch) -> None:
        key = action.run
        assert not self.alive(key.instance_id), (
            f"I1: {key} is launched while alive: {self.alive(key.instance_id)}"
        )
        assert key.number > self.numbers.get(key.instance_id, 0), f"{key}: the run number was used before"
        self.numbers[key.instance_id] = key.number
        behaviour = self.behaviours.get(key.instance_id, GOOD)
        if behaviour.start_fails:
            self.posted.append(StartFailed(key, "no such file", self.now))
            return
        self.processes[key] = Process(behaviour, self.now.mono, grandchild=behaviour.leaves_grandchild)
        self.posted.append(Started(key, 1000 + key.number, self.now))
        self.become_ready()

    def stop(self, action: Stop) -> None:
        assert action.run not in self.gone, f"{action.run} is gone, and receives signal {action.signum}"
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
        self.posted.append(Exited(key, status, self.now))
        if not process.grandchild:
            self.posted.append(Gone(key, self.now))

    def end_grandchild(self, key: RunKey) -> None:
        process = self.processes[key]
        if process.grandchild:
            process.grandchild = False
            if not process.main:
                self.posted.append(Gone(key, self.now))

    def become_ready(self) -> None:
        for key, process in self.processes.items():
            after = process.behaviour.ready_after
            if not process.main or process.ready_posted or after is None:
                continue
            if self.now.mono >= process.born + after:
                process.ready_posted = True
                self.posted.append(Ready(key, self.now))

    # --- the supervisor

    def fold_posted(self) -> None:
        """Fold all posted events."""
        while self.posted:
            event = self.posted.pop(0)
            self.folded.append(event)
            instance = self.instances.get(event.run.instance_id)
            if instance is None:
                continue
            if isinstance(event, Gone | StartFailed):
                self.gone.add(event.run)
            self.instances[event.run.instance_id] = fold(instance, event)

    def step(self) -> None:
        """Decide about every instance until no instance changes."""
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
        dependents = [
            instance.instance_id
            for instance in self.instances.values()
            if instance_id in instance.spec.depends_on
        ]
        instance = self._with_next_run(dependencies.with_dependency_facts(old, self.instances, dependents))
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
                    assert not new.held, f"{instance_id} is held, and launched"
                    self.launch(action)
                case Stop():
                    assert new.observed.run is not None
                    assert action.run == new.run_key()
                    self.stop(action)
                case LogEntry():
                    self.entries.append(action)
                case Remove():
                    assert not self.alive(instance_id), f"I8: {instance_id} leaves the list alive"
                    del self.instances[instance_id]
                    removed = True
        if not removed:
            again = decide(new, self.now)
            assert again.instance == new, "a second decision changes the instance"
            assert not again.actions, "a second decision has actions"
        return removed or new != old

    def _with_next_run(self, instance: Instance) -> Instance:
        """Return the instance with its next scheduled run: each full EVERY s."""
        scheduled, known = instance.spec.schedule is not None, instance.observed.next_run
        if scheduled is (known is not None):
            return instance
        coming = (self.now.wall // EVERY + 1) * EVERY if scheduled else None
        return replace(instance, observed=replace(instance.observed, next_run=coming))

    def check(self, instance: Instance) -> None:
        """Check the invariants of an instance at the moment when the supervisor sleeps."""
        if instance.observed.run is None:
            assert not self.alive(instance.instance_id), (
                f"{instance.instance_id} is alive, and counts as dead"
            )
        if instance.standing.state in (State.DOWN, State.START_AT, State.START, State.UNKNOWN):
            assert instance.observed.run is None, (
                f"I8: {instance.instance_id} is {instance.standing.state.value} with {instance.observed.run}"
            )
        else:
            assert instance.observed.run is not None, (
                f"{instance.instance_id} is {instance.standing.state.value} with nothing alive"
            )
        assert not (
            instance.should_stop and instance.standing.state is State.UP and not instance.observed.held_by
        ), f"{instance.instance_id} is not stopped"
        match instance.standing.state:
            case State.WAIT_START if instance.should_stop:
                assert instance.observed.held_by, f"{instance.instance_id} is not stopped"
            case State.START_AT | State.WAIT_START | State.WAIT_DEAD:
                assert instance.standing.deadline is not None, (
                    f"{instance.instance_id} stays {instance.standing.state.value} without a deadline"
                )
            case State.START:
                assert instance.observed.waiting_for, (
                    f"{instance.instance_id} waits to start without a missing dependency"
                )
            case State.DOWN:
                assert instance.settled or instance.held, (
                    f"{instance.instance_id} stays down although {instance.wanted.target.value} is wanted"
                )
            case State.UP | State.UNKNOWN:
                pass
        deadline = next_deadline(instance)
        assert deadline is None or deadline.mono > self.now.mono, (
            f"{instance.instance_id} makes the loop spin"
        )
        assert 0.0 <= stability(instance.standing.fail_times, self.now) <= 1.0
        assert (stability(instance.standing.fail_times, self.now) == 1.0) is (
            not instance.standing.fail_times
        )

    # --- time

    def advance(self, seconds: float) -> None:
        """Let time pass, and stop at each deadline and at each moment of readiness."""
        end = self.now.plus(seconds)
        for _ in range(5000):
            moments = [
                d.mono for instance in self.instances.values() if (d := next_deadline(instance)) is not None
            ]
            moments += [
                self.now.mono + max(0.0, each.observed.next_run - self.now.wall)
                for each in self.instances.values()
                if each.observed.next_run is not None
            ]
            moments += [
                p.born + p.behaviour.ready_after
                for p in self.processes.values()
                if p.main and not p.ready_posted and p.behaviour.ready_after is not None
            ]
            coming = min((m for m in moments if m <= end.mono), default=None)
            was = {
                n: (instance.standing.fail_times, stability(instance.standing.fail_times, self.now))
                for n, instance in self.instances.items()
            }
            self.now = end if coming is None else self.now.plus(max(0.0, coming - self.now.mono))
            if coming is not None and self.now.mono < coming:
                self.now = Instant(coming, self.now.wall)
            self._check_stability(was)
            self.become_ready()
            self.fold_posted()
            self.step()
            if coming is None and not self.posted:
                return
        raise AssertionError("too many rounds in this time: the loop spins")

    def _check_stability(self, was: Mapping[str, tuple[tuple[Instant, ...], float]]) -> None:
        for name, (fail_times, before) in was.items():
            assert stability(fail_times, self.now) >= before, f"{name} loses stability without failing"

    # --- the expected outcome

    def expected_up(self, instance_id: str) -> bool:
        """Return whether the instance must be up once all processes behave well."""
        instance = self.instances.get(instance_id)
        if instance is None or instance.retired:
            return False
        if instance.wanted.target is Target.PASSIVE:
            return instance.observed.run is not None
        if instance.wanted.target is not Target.UP or instance.standing.outcome is not None:
            return False
        return instance.observed.run is not None or (
            not instance.awaits_schedule
            and instance.spec.process is not None
            and all(self.meets(instance, d) for d in instance.spec.depends_on)
        )

    def meets(self, instance: Instance, name: str) -> bool:
        """Return whether a dependency must meet its condition once all processes behave well."""
        dependency = self.instances.get(name)
        if dependency is None:
            return False
        if dependency.standing.outcome is Outcome.COMPLETED:
            return True
        condition = dict(instance.spec.conditions).get(name, dependency.spec.default_condition)
        return condition is not StartCondition.COMPLETED and self.expected_up(name)

    def host_spec(self) -> HostSpec:
        return HostSpec("host", tuple(self.config.values()))
