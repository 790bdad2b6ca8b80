"""The manager over fake agents, against a model of the requested targets."""

from __future__ import annotations

import signal
from concurrent.futures import Future

from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.core.model import Instance, State
from hostmanager_server.core.plan import ALL, TargetChange
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Target
from hostmanager_server.supervisor.errors import Accepted, RequestError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.fakes.driver import Behaviour
from tests.in_memory import MemoryConfig
from tests.supervisor.conftest import ManagerHarness, spec

NAMES = ("a", "b", "c", "d")
names = st.sampled_from(NAMES)
INT, TERM = int(signal.SIGINT), int(signal.SIGTERM)
behaviours = st.builds(
    Behaviour,
    cannot_start=st.sampled_from(["", "", "no such file"]),
    exits_after=st.sampled_from([None, None, None, 2.0]),
    ignores=st.sampled_from([frozenset[int](), frozenset({INT}), frozenset({INT, TERM})]),
    descendants=st.booleans(),
)
changes = st.lists(
    st.builds(
        TargetChange, st.sampled_from([*NAMES, ALL, "unknown"]), st.sampled_from([Target.UP, Target.DOWN])
    ),
    min_size=1,
    max_size=4,
)
QUIET = 400.0  # s; longer than all backoffs and escalations together


@st.composite
def configs(draw: st.DrawFn) -> tuple[InstanceSpec, ...]:
    chosen = draw(st.sets(names))
    return tuple(
        spec(
            name,
            draw(st.sampled_from(["Agent", "Agent", "Other"])),
            initial_target=draw(st.sampled_from([Target.UP, Target.DOWN])),
            depends_on=draw(st.sampled_from([(), NAMES[: NAMES.index(name)][-1:]])),
        )
        for name in sorted(chosen)
    )


class ManagerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.harness = ManagerHarness(removals_kept=2)
        self.running = ManagerState.STOPPED
        self.wanted: dict[str, tuple[str, Target]] = {}  # class and target, by id
        self.config: tuple[InstanceSpec, ...] = ()
        self.cursor = self.harness.store.revision
        self.read_instances: dict[str, Instance] = {}

    # --- requests

    @rule(config=configs(), asked=changes | st.just([]))
    def start(self, config: tuple[InstanceSpec, ...], asked: list[TargetChange]) -> None:
        read = MemoryConfig(HostSpec("host", config))
        try:
            self.harness.manager.start(read, asked)
        except RequestError:
            assert self.running is not ManagerState.STOPPED or not self.fits(asked, config)
        else:
            assert self.running is ManagerState.STOPPED
            self.running = ManagerState.RUNNING
            self.config = config
            self.wanted = {s.instance_id: (s.agent_class, s.initial_target) for s in config}
            self.ask(asked)

    @rule(asked=changes, validate=st.booleans())
    def update(self, asked: list[TargetChange], *, validate: bool) -> None:
        before = dict(self.harness.instances)
        try:
            self.harness.manager.update(None, asked, validate_only=validate)
        except RequestError:
            assert self.running is not ManagerState.RUNNING or not self.fits(asked)
            assert dict(self.harness.instances) == before, "a rejected request changes nothing"
        else:
            assert self.fits(asked)
            if validate:
                assert dict(self.harness.instances) == before
            else:
                self.ask(asked)

    @rule(config=configs())
    def reload(self, config: tuple[InstanceSpec, ...]) -> None:
        try:
            self.harness.manager.update(MemoryConfig(HostSpec("host", config)), ())
        except RequestError:
            assert self.running is not ManagerState.RUNNING
            return
        self.config = config
        old, self.wanted = self.wanted, {}
        for s in config:
            known = old.get(s.instance_id)
            same = known is not None and known[0] == s.agent_class
            self.wanted[s.instance_id] = (s.agent_class, known[1] if known and same else s.initial_target)

    @rule(who=names)
    def restart(self, who: str) -> None:
        before = dict(self.harness.instances)
        try:
            self.harness.manager.of_instances.restart([who])
        except RequestError:
            asked = self.wanted.get(who)
            assert self.running is not ManagerState.RUNNING or asked is None or asked[1] is Target.DOWN
            assert dict(self.harness.instances) == before

    @rule()
    def stop(self) -> None:
        done: Future[Accepted] = Future()
        self.harness.manager.stop(done)
        if self.running is ManagerState.RUNNING:
            self.wanted = {i: (name, Target.DOWN) for i, (name, _) in self.wanted.items()}
        self.harness.pass_time(QUIET)
        assert done.result(0)
        assert not self.harness.host.runs, "I8: a stopped manager has no live process"
        self.running = ManagerState.STOPPED

    def fits(self, asked: list[TargetChange], config: tuple[InstanceSpec, ...] | None = None) -> bool:
        ids = set(self.wanted) if config is None else {s.instance_id for s in config}
        return {change.instance_id for change in asked} <= {ALL, *ids}

    def ask(self, asked: list[TargetChange]) -> None:
        for change in asked:
            for who in self.wanted if change.instance_id == ALL else [change.instance_id]:
                self.wanted[who] = (self.wanted[who][0], change.target)

    # --- the agents and the daemon

    @rule(who=names, behaviour=behaviours)
    def behave(self, who: str, behaviour: Behaviour) -> None:
        self.harness.host.behave(who, behaviour)

    @rule(who=names, code=st.integers(0, 2))
    def crash(self, who: str, code: int) -> None:
        self.harness.host.crash(who, ExitStatus(code))

    @precondition(lambda self: self.running is ManagerState.RUNNING)
    @rule(crashed=st.sets(names), away=st.sampled_from([0.0, 0.5, 40.0]))
    def die(self, crashed: set[str], away: float) -> None:
        """Kill the daemon: acknowledged requests are on disk, all else is lost."""
        self.harness.manager.save()
        self.harness.die()
        before = {run.key: run.pid for run in self.harness.host.runs if run.main_alive}
        for who in crashed:
            self.harness.host.crash(who, ExitStatus(1))
        self.harness.poller.advance(away)
        alive = {run.key.instance_id: run for run in self.harness.host.runs}
        self.harness.manager.start(MemoryConfig(HostSpec("host", self.config)), (), tolerant=True)
        self.cursor, self.read_instances = 0, {}
        for who, tracked in self.harness.store.snapshot().instances.items():
            run = alive.get(who)
            shown = tracked.instance.observed.run
            if run is not None and run.main_alive:
                assert shown is not None, "I4: a live run is missing from the snapshot"
                assert shown.pid == run.pid
                assert before[run.key] == run.pid, "I9"
            elif tracked.instance.standing.state is State.UP:
                assert run is not None, "I4: an ended run is shown as up"

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.5, 5.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.harness.pass_time(seconds)

    @rule()
    def step(self) -> None:
        self.harness.reconciler.step()

    @rule()
    def read(self) -> None:
        """Read the changes, as an occasional watcher."""
        changes = self.harness.store.changes_since(self.cursor)
        if changes is None:
            snapshot = self.harness.store.snapshot()
            self.read_instances = {i: t.instance for i, t in snapshot.instances.items()}
            assert snapshot.revision > self.cursor
            self.cursor = snapshot.revision
            return
        assert changes.revision >= self.cursor
        assert all(t.revision > self.cursor for t in changes.instances), "I4: no change is repeated"
        for gone in changes.removed:
            self.read_instances.pop(gone, None)
        self.read_instances.update({t.instance.instance_id: t.instance for t in changes.instances})
        self.cursor = changes.revision
        published = self.harness.store.snapshot().instances
        assert self.read_instances == {i: t.instance for i, t in published.items()}

    @rule()
    def settle(self) -> None:
        """Check I3: with well-behaved agents and time, each target is reached."""
        for name in NAMES:
            self.harness.host.behave(name, Behaviour())
        self.harness.pass_time(QUIET)
        self.harness.pass_time(QUIET)
        instances = self.harness.instances
        assert instances.keys() == self.wanted.keys()
        runs = {run.key.instance_id for run in self.harness.host.runs}
        startable = {i for i, instance in instances.items() if not instance.observed.waiting_for}
        for who, (agent_class, target) in self.wanted.items():
            instance = instances[who]
            assert (instance.spec.agent_class, instance.wanted.target) == (agent_class, target)
            up = target is Target.UP and who in startable
            assert (who in runs) == up or (target is Target.UP and instance.standing.state is State.UP), (
                instance
            )
            assert instance.standing.observed_generation == instance.wanted.generation or not up
            unmet = [d for d in instance.spec.depends_on if d not in runs]
            assert instance.standing.state is not State.START or unmet, "an instance waits without a reason"
        assert self.harness.store.snapshot().manager.state is self.running

    # --- invariants

    @invariant()
    def never_two(self) -> None:
        alive = [run.key.instance_id for run in self.harness.host.runs]
        assert len(alive) == len(set(alive)), "I1"

    @invariant()
    def down_is_down(self) -> None:
        for who, instance in self.harness.instances.items():
            if instance.standing.state in (State.DOWN, State.START_AT) and instance.observed.run is None:
                assert not self.harness.alive(who), "I8"

    def teardown(self) -> None:
        self.harness.reconciler.publish()
        self.read()
        self.settle()


TestManager = ManagerMachine.TestCase
TestManager.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
