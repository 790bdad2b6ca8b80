"""Invariants of the core under a hostile simulated host."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hostmanager_server.core import config_plan, holds, jobs, lifecycle, plan
from hostmanager_server.core.actions import Action
from hostmanager_server.core.counters import next_deadline
from hostmanager_server.core.events import (
    Exited,
    ExitStatus,
    Instant,
    ProbeAnswer,
    ProbeAnswered,
    Ready,
    RunKey,
    Started,
    Verdict,
)
from hostmanager_server.core.model import Hold, Instance, Phase, Run, State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import (
    Backoff,
    InstanceSpec,
    LivenessProbe,
    ProcessSpec,
    RestartPolicy,
    RestartWhen,
    Schedule,
    StartCondition,
    StopPolicy,
    Target,
    TcpProbe,
)
from hostmanager_server.core.stability import stability
from hostmanager_server.core.transitions import TRANSITIONS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.instances import with_fields
from tests.core.simulated_host import GOOD, AgentBehaviour, Process, SimulatedHost

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
targets = st.sampled_from([Target.UP, Target.UP, Target.DOWN, Target.DOWN, Target.PASSIVE])

statuses = st.sampled_from([ExitStatus(0), ExitStatus(1), ExitStatus(signal=9), ExitStatus()])
INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)

behaviours = st.builds(
    AgentBehaviour,
    start_fails=st.sampled_from([False, False, False, True]),
    ready_after=st.sampled_from([0.0, 0.0, 3.0, 16.0, None]),
    ignores=st.sampled_from([frozenset[int](), frozenset({INT}), frozenset({INT, TERM})]),
    leaves_grandchild=st.booleans(),
)


conditions = st.sampled_from(StartCondition)


@st.composite
def specs(draw: st.DrawFn, name: str) -> InstanceSpec:
    earlier = NAMES[: NAMES.index(name)]  # keeps the dependencies free of cycles
    depends_on = tuple(n for n in earlier if draw(st.sampled_from([False, False, True])))
    when = draw(st.sampled_from([RestartWhen.ALWAYS] * 3 + [RestartWhen.ON_FAILURE, RestartWhen.NEVER]))
    scheduled = when is not RestartWhen.ALWAYS and draw(st.booleans())
    argv = draw(st.sampled_from(["one"] * 6 + ["two"] * 2 + [""]))
    return InstanceSpec(
        name,
        draw(st.sampled_from(["Agent", "Agent", "Other"])),
        initial_target=draw(st.sampled_from([Target.UP] * 6 + [Target.DOWN, Target.PASSIVE])),
        process=ProcessSpec((argv,)) if argv else None,
        problem="" if argv else "no command",
        stop=StopPolicy(draw(st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))),
        restart=RestartPolicy(
            when,
            Backoff(initial=draw(st.sampled_from([0.1, 0.1, 0.0]))),
            draw(st.sampled_from([None, None, 1, 3])),
        ),
        up_after=draw(st.sampled_from([0.0, 1.0, 20.0])),
        depends_on=depends_on,
        conditions=tuple(
            (n, draw(st.sampled_from(StartCondition))) for n in depends_on if draw(st.booleans())
        ),
        restart_dependents=draw(st.booleans()),
        schedule=Schedule("* * * * *") if scheduled else None,
        alive=draw(st.sampled_from([None, LivenessProbe(TcpProbe("h", 1), failures=2)])),
    )


class Machine(RuleBasedStateMachine):
    """Random requests, processes and events; `calm` checks the outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.host = SimulatedHost()
        self.patch = pytest.MonkeyPatch()
        step = lifecycle._step

        def held_to_transitions(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
            after = step(instance, now, actions)
            if after.standing.state is not instance.standing.state:
                assert after.standing.state in TRANSITIONS[instance.standing.state], (
                    f"{instance.standing.state.value} -> {after.standing.state.value}"
                )
            return after

        self.patch.setattr(lifecycle, "_step", held_to_transitions)

    def teardown(self) -> None:
        try:
            self.calm()
        finally:
            self.patch.undo()

    @initialize(data=st.data())
    def first_config(self, data: st.DataObject) -> None:
        for name in NAMES[: data.draw(st.integers(1, len(NAMES)))]:
            self.host.config[name] = data.draw(specs(name))
            self.host.behaviours[name] = data.draw(behaviours)
        self.reload()
        self.host.step()

    # --- the operators

    def reload(self) -> None:
        result = config_plan.apply_config(self.host.instances, self.host.host_spec(), self.host.now)
        self.put(dict(result.changed))

    def put(self, changed: dict[str, Instance]) -> None:
        for name, instance in changed.items():
            old = self.host.instances.get(name)
            assert old is None or instance.wanted.generation >= old.wanted.generation
            assert old is None or instance.standing.observed_generation >= old.standing.observed_generation
            if old is None:  # run numbers start again; no process of an earlier run is alive
                assert not self.host.alive(name)
                self.host.numbers.pop(name, None)
                self.host.gone = {key for key in self.host.gone if key.instance_id != name}
                self.host.posted = [event for event in self.host.posted if event.run.instance_id != name]
                self.host.folded = [e for e in self.host.folded if e.run.instance_id != name]
                for key in [key for key in self.host.processes if key.instance_id == name]:
                    del self.host.processes[key]
            self.host.instances[name] = instance

    @rule(changes=st.lists(st.tuples(st.one_of(names, st.just(plan.ALL)), targets), min_size=1, max_size=3))
    def set_targets(self, changes: list[tuple[str, Target]]) -> None:
        wanted = [TargetChange(who, target) for who, target in changes]
        known = [n for n, instance in self.host.instances.items() if not instance.retired]
        bad = {entry.index for entry in plan.check_targets(known, wanted)}
        good = [change for index, change in enumerate(wanted) if index not in bad]
        self.put(plan.set_targets(self.host.instances, good))

    @rule(name=names)
    def restart(self, name: str) -> None:
        if not plan.check_restart(self.host.instances, [name]):
            self.put(plan.restart(self.host.instances, [name]))

    @rule(name=names, data=st.data())
    def change_config(self, name: str, data: st.DataObject) -> None:
        self.host.config[name] = data.draw(specs(name))
        self.reload()

    @rule(name=names)
    def drop_from_config(self, name: str) -> None:
        self.host.config.pop(name, None)
        self.reload()

    @rule(name=names, seconds=st.sampled_from([None, 1.0, 40.0]))
    def hold(self, name: str, seconds: float | None) -> None:
        if not plan.check_known(self.host.instances, [name]):
            now = self.host.now
            wanted = Hold(now, None if seconds is None else now.plus(seconds))
            self.put(holds.hold(self.host.instances, [name], wanted)[0])

    @rule(name=names)
    def release(self, name: str) -> None:
        if not plan.check_known(self.host.instances, [name]):
            self.put(holds.release(self.host.instances, [name], self.host.now)[0])

    @rule(name=names)
    def run_once(self, name: str) -> None:
        instance = self.host.instances.get(name)
        if instance is not None and not jobs.why_not(instance, ()):
            self.put({name: jobs.run_once(instance, ())})

    # --- the processes

    @rule(name=names, behaviour=behaviours)
    def behave(self, name: str, behaviour: AgentBehaviour) -> None:
        self.host.behaviours[name] = behaviour

    def alive(self, data: st.DataObject) -> RunKey:
        return data.draw(st.sampled_from([key for name in NAMES for key in self.host.alive(name)]))

    @precondition(lambda self: any(map(self.host.alive, NAMES)))
    @rule(data=st.data(), status=statuses, folded=st.booleans())
    def crash(self, data: st.DataObject, status: ExitStatus, *, folded: bool) -> None:
        key = self.alive(data)
        if self.host.processes[key].main:
            self.host.end_main(key, status)
        if folded:
            self.fold_posted_events()

    @precondition(lambda self: any(map(self.host.alive, NAMES)))
    @rule(data=st.data(), verdict=st.sampled_from(Verdict), failures=st.integers(1, 3))
    def probe_answers(self, data: st.DataObject, verdict: Verdict, failures: int) -> None:
        answer = ProbeAnswer(verdict, self.host.now, "why", failures if verdict is Verdict.FAILED else 0)
        self.host.posted.append(ProbeAnswered(self.alive(data), answer))

    @precondition(lambda self: any(map(self.host.alive, NAMES)))
    @rule(data=st.data())
    def grandchild_ends(self, data: st.DataObject) -> None:
        self.host.end_grandchild(self.alive(data))

    @rule(name=names)
    def found_running(self, name: str) -> None:
        """Let the driver find a process that the daemon did not start."""
        instance = self.host.instances.get(name)
        if (
            instance is None
            or instance.observed.run is not None
            or instance.spec.process is None
            or self.host.alive(name)
        ):
            return
        key = RunKey(name, instance.standing.runs + 1)
        self.host.numbers[name] = key.number
        self.host.processes[key] = Process(GOOD, self.host.now.mono, ready_posted=True)
        run = Run(key.number, Phase.READY, instance.spec.process, 99, self.host.now, adopted=True)
        self.host.instances[name] = with_fields(instance, run=run, runs=key.number)

    # --- lost, repeated and reordered events

    @precondition(lambda self: self.host.posted)
    @rule(data=st.data())
    def lose_an_event(self, data: st.DataObject) -> None:
        """Lose an event other than Gone, which the driver repeats until the daemon knows."""
        losable = [e for e in self.host.posted if isinstance(e, Started | Ready | Exited)]
        if losable:
            self.host.posted.remove(data.draw(st.sampled_from(losable)))

    @precondition(lambda self: self.host.posted)
    @rule(data=st.data())
    def double_an_event(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.host.posted) - 1))
        self.host.posted.insert(index, self.host.posted[index])

    @precondition(lambda self: self.host.folded)
    @rule(data=st.data())
    def repeat_an_old_event(self, data: st.DataObject) -> None:
        self.host.posted.append(data.draw(st.sampled_from(self.host.folded[-20:])))

    @precondition(lambda self: len(self.host.posted) > 1)
    @rule(data=st.data())
    def swap_started_and_ready(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.host.posted) - 2))
        first, second = self.host.posted[index : index + 2]
        if first.run != second.run or (isinstance(first, Started) and isinstance(second, Ready)):
            self.host.posted[index : index + 2] = [second, first]

    # --- the supervisor

    @rule()
    def decide_before_events_are_folded(self) -> None:
        self.host.step()

    @rule()
    def fold_posted_events(self) -> None:
        self.host.fold_posted()
        self.host.step()

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 15.0, 16.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.host.step()
        self.host.advance(seconds)

    @invariant()
    def no_instance_runs_twice(self) -> None:
        for name in NAMES:
            assert len(self.host.alive(name)) <= 1

    @rule()
    def calm(self) -> None:
        """Let all processes behave well: every target is reached, and the host is quiet."""
        host = self.host
        host.behaviours.clear()
        self.put(holds.release(host.instances, list(host.instances), host.now)[0])
        for process in host.processes.values():
            process.behaviour = replace(process.behaviour, ready_after=GOOD.ready_after)
        host.step()
        host.advance(150.0)  # three stops in a row take 15 s each until KILL; the backoff takes 30 s
        host.advance(125.0)
        for name, instance in host.instances.items():
            assert not instance.retired, f"{name} is still tracked"
            assert instance.wanted.successor is None
            assert not instance.wanted.restart
            if instance.spec.process is not None and instance.wanted.job is not None:
                assert instance.standing.state in (State.START, State.WAIT_START, State.UP)
            if instance.spec.process is None and instance.observed.run is None:
                assert instance.standing.state is State.UNKNOWN
            elif instance.spec.schedule is not None:
                settled = (State.DOWN, State.START, State.WAIT_START, State.UP)
                assert instance.standing.state in settled, instance.standing
            elif host.expected_up(name):
                assert instance.standing.state is State.UP, f"I3: {name}: {instance.standing}"
            elif instance.wanted.target is Target.UP and instance.standing.outcome is None:
                assert instance.standing.state is State.START, f"{name}: {instance.standing}"
                assert any(not host.meets(instance, d) for d in instance.spec.depends_on)
            else:
                assert instance.standing.state is State.DOWN, f"I3: {name}: {instance.standing}"
            if instance.settled:
                assert instance.standing.observed_generation == instance.wanted.generation
            assert stability(instance.standing.fail_times, host.now) == 1.0
            assert next_deadline(instance) is None, f"{name} is quiet, but has a deadline"
            if instance.standing.state is State.UP:
                assert instance.standing.failures == 0, "a minute up clears the failures"


Machine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestCore = Machine.TestCase
