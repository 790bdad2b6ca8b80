"""The core against a simulated host that does its worst: what must always hold, holds."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hostmanager_server.core import lifecycle, plan
from hostmanager_server.core.actions import Action
from hostmanager_server.core.events import Exited, ExitStatus, Instant, Ready, RunKey, Started
from hostmanager_server.core.lifecycle import TRANSITIONS, next_deadline
from hostmanager_server.core.model import Instance, Phase, Run, State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import (
    Backoff,
    InstanceSpec,
    ProcessSpec,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    Target,
)
from hostmanager_server.core.stability import stability
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.instances import with_fields
from tests.core.world import GOOD, Behaviour, Process, World

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
targets = st.sampled_from([Target.UP, Target.UP, Target.DOWN, Target.DOWN, Target.PASSIVE])

statuses = st.sampled_from([ExitStatus(0), ExitStatus(1), ExitStatus(signal=9), ExitStatus()])
INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)

behaviours = st.builds(
    Behaviour,
    start_fails=st.sampled_from([False, False, False, True]),
    ready_after=st.sampled_from([0.0, 0.0, 3.0, 16.0, None]),
    ignores=st.sampled_from([frozenset[int](), frozenset({INT}), frozenset({INT, TERM})]),
    leaves_grandchild=st.booleans(),
)


@st.composite
def specs(draw: st.DrawFn, name: str) -> InstanceSpec:
    earlier = NAMES[: NAMES.index(name)]  # so the dependencies have no cycle
    argv = draw(st.sampled_from(["one"] * 6 + ["two"] * 2 + [""]))
    return InstanceSpec(
        name,
        draw(st.sampled_from(["Agent", "Agent", "Other"])),
        initial_target=draw(st.sampled_from([Target.UP] * 6 + [Target.DOWN, Target.PASSIVE])),
        process=ProcessSpec((argv,)) if argv else None,
        problem="" if argv else "no command",
        stop=StopPolicy(draw(st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]))),
        restart=RestartPolicy(
            draw(st.sampled_from([RestartWhen.ALWAYS] * 3 + [RestartWhen.ON_FAILURE, RestartWhen.NEVER])),
            Backoff(initial=draw(st.sampled_from([0.1, 0.1, 0.0]))),
        ),
        depends_on=tuple(n for n in earlier if draw(st.sampled_from([False, False, True]))),
    )


class Machine(RuleBasedStateMachine):
    """Whatever operators, processes and the kernel do; `calm` then asks for what all this is to come to."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.patch = pytest.MonkeyPatch()
        step = lifecycle._step

        def held_to_transitions(i: Instance, now: Instant, do: list[Action]) -> Instance:
            after = step(i, now, do)
            if after.standing.state is not i.standing.state:
                assert after.standing.state in TRANSITIONS[i.standing.state], (
                    f"{i.standing.state.value} -> {after.standing.state.value}"
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
            self.world.config[name] = data.draw(specs(name))
            self.world.behaviours[name] = data.draw(behaviours)
        self.reload()
        self.world.step()

    # --- the operators

    def reload(self) -> None:
        result = plan.apply_config(self.world.instances, self.world.host(), self.world.now)
        self.put(dict(result.changed))

    def put(self, changed: dict[str, Instance]) -> None:
        for name, instance in changed.items():
            old = self.world.instances.get(name)
            assert old is None or instance.wanted.generation >= old.wanted.generation
            assert old is None or instance.standing.observed_generation >= old.standing.observed_generation
            if old is None:  # the numbers of its runs begin anew; nothing of an earlier one is alive
                assert not self.world.alive(name)
                self.world.numbers.pop(name, None)
                self.world.gone = {key for key in self.world.gone if key.instance_id != name}
                self.world.mail = [event for event in self.world.mail if event.run.instance_id != name]
                self.world.old_mail = [e for e in self.world.old_mail if e.run.instance_id != name]
                for key in [key for key in self.world.processes if key.instance_id == name]:
                    del self.world.processes[key]
            self.world.instances[name] = instance

    @rule(changes=st.lists(st.tuples(st.one_of(names, st.just(plan.ALL)), targets), min_size=1, max_size=3))
    def set_targets(self, changes: list[tuple[str, Target]]) -> None:
        wanted = [TargetChange(who, target) for who, target in changes]
        known = [n for n, i in self.world.instances.items() if not i.retired]
        bad = {entry.index for entry in plan.check_targets(known, wanted)}
        good = [change for index, change in enumerate(wanted) if index not in bad]
        self.put(plan.set_targets(self.world.instances, good))

    @rule(name=names)
    def restart(self, name: str) -> None:
        if not plan.check_restart(self.world.instances, [name]):
            self.put(plan.restart(self.world.instances, [name]))

    @rule(name=names, data=st.data())
    def change_config(self, name: str, data: st.DataObject) -> None:
        self.world.config[name] = data.draw(specs(name))
        self.reload()

    @rule(name=names)
    def drop_from_config(self, name: str) -> None:
        self.world.config.pop(name, None)
        self.reload()

    # --- the processes

    @rule(name=names, behaviour=behaviours)
    def behave(self, name: str, behaviour: Behaviour) -> None:
        self.world.behaviours[name] = behaviour

    def alive(self, data: st.DataObject) -> RunKey:
        return data.draw(st.sampled_from([key for name in NAMES for key in self.world.alive(name)]))

    @precondition(lambda self: any(map(self.world.alive, NAMES)))
    @rule(data=st.data(), status=statuses, told=st.booleans())
    def crash(self, data: st.DataObject, status: ExitStatus, told: bool) -> None:
        key = self.alive(data)
        if self.world.processes[key].main:
            self.world.end_main(key, status)
        if told:
            self.read_the_mail()

    @precondition(lambda self: any(map(self.world.alive, NAMES)))
    @rule(data=st.data())
    def grandchild_ends(self, data: st.DataObject) -> None:
        self.world.end_grandchild(self.alive(data))

    @rule(name=names)
    def found_running(self, name: str) -> None:
        """Something started by others, as a driver may find it."""
        i = self.world.instances.get(name)
        if i is None or i.observed.run is not None or i.spec.process is None or self.world.alive(name):
            return
        key = RunKey(name, i.standing.runs + 1)
        self.world.numbers[name] = key.number
        self.world.processes[key] = Process(GOOD, self.world.now.mono, ready_said=True)
        run = Run(key.number, Phase.READY, i.spec.process, 99, self.world.now, adopted=True)
        self.world.instances[name] = with_fields(i, run=run, runs=key.number)

    # --- the ways of the events

    @precondition(lambda self: self.world.mail)
    @rule(data=st.data())
    def lose_a_sighting(self, data: st.DataObject) -> None:
        """Only that nothing is left may not be lost: the driver goes on until it is told so."""
        losable = [e for e in self.world.mail if isinstance(e, Started | Ready | Exited)]
        if losable:
            self.world.mail.remove(data.draw(st.sampled_from(losable)))

    @precondition(lambda self: self.world.mail)
    @rule(data=st.data())
    def double_an_event(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.world.mail) - 1))
        self.world.mail.insert(index, self.world.mail[index])

    @precondition(lambda self: self.world.old_mail)
    @rule(data=st.data())
    def repeat_an_old_event(self, data: st.DataObject) -> None:
        self.world.mail.append(data.draw(st.sampled_from(self.world.old_mail[-20:])))

    @precondition(lambda self: len(self.world.mail) > 1)
    @rule(data=st.data())
    def swap_started_and_ready(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.world.mail) - 2))
        first, second = self.world.mail[index : index + 2]
        if first.run != second.run or (isinstance(first, Started) and isinstance(second, Ready)):
            self.world.mail[index : index + 2] = [second, first]

    # --- the supervisor

    @rule()
    def decide_before_the_mail_is_read(self) -> None:
        self.world.step()

    @rule()
    def read_the_mail(self) -> None:
        self.world.deliver()
        self.world.step()

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 15.0, 16.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.step()
        self.world.advance(seconds)

    @invariant()
    def nobody_lives_twice(self) -> None:
        for name in NAMES:
            assert len(self.world.alive(name)) <= 1

    @rule()
    def calm(self) -> None:
        """Everything behaves from now on: what is wanted comes true, and then it is quiet."""
        world = self.world
        world.behaviours.clear()
        for process in world.processes.values():
            process.behaviour = replace(process.behaviour, ready_after=GOOD.ready_after)
        world.step()
        world.advance(
            150.0
        )  # the longest: KILL after 15 s, thrice in a row for dependents; a backoff of 30 s
        world.advance(125.0)
        for name, i in world.instances.items():
            assert not i.retired, f"{name} is still on the list"
            assert i.wanted.successor is None
            assert not i.wanted.restart
            if i.spec.process is None and i.observed.run is None:
                assert i.standing.state is State.UNKNOWN
            elif world.expected_up(name):
                assert i.standing.state is State.UP, (
                    f"I3: {name} is {i.standing.state.value} ({i.standing.reason}: {i.standing.message})"
                )
            elif i.wanted.target is Target.UP and not i.standing.finished:
                assert i.standing.state is State.START, (
                    f"{name} is {i.standing.state.value} ({i.standing.reason}: {i.standing.message})"
                )
                assert any(not world.expected_up(d) for d in i.spec.depends_on)
            else:
                assert i.standing.state is State.DOWN, (
                    f"I3: {name} is {i.standing.state.value} ({i.standing.reason}: {i.standing.message})"
                )
            if i.settled:
                assert i.standing.observed_generation == i.wanted.generation
            assert stability(i.standing.fail_times, world.now) == 1.0
            assert next_deadline(i) is None, f"{name} is quiet, and yet it is to be looked at again"
            if i.standing.state is State.UP:
                assert i.standing.failures == 0, "forgotten after a minute up"


Machine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestCore = Machine.TestCase
