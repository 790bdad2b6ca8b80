"""State-machine test of request handler, reconciler and compose driver.

All of them run on an engine in memory.

The engine comes and goes while requests, config changes, crashes and manual changes arrive in any order.
"""

from __future__ import annotations

from collections.abc import Callable

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.compose import Survey
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import State
from hostmanager_server.core.plan import ALL, TargetChange
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Management, Target
from hostmanager_server.drivers.compose.driver import ComposeDriver
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.errors import RequestError
from hostmanager_server.supervisor.reconciler import Reconciler
from hostmanager_server.supervisor.request_handler import RequestHandler
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.drivers.compose.fake_compose import (
    IMAGE,
    FakeActions,
    FakeCompose,
    FakeComposeEngine,
    FakeReader,
    service,
)
from tests.fakes.driver import FakePoller
from tests.in_memory import MemoryConfig, MemoryJournal

NAMES = ("a", "b", "c")
REPLICAS = {"a": 1, "b": 1, "c": 2}
names = st.sampled_from(NAMES)
target_states = st.sampled_from([Target.UP, Target.DOWN])
QUIET = 120.0  # s: longer than every backoff, so that every delayed action is done


class ServicesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.poller = FakePoller()
        self.engine = FakeComposeEngine(self.poller)
        self.reader = FakeReader(*(service(name, replicas=REPLICAS[name]) for name in NAMES))
        self.compose = FakeCompose(self.engine, self.reader)
        self.actions = FakeActions(self.engine, self.poller)
        stopped = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
        self.store = Store("epoch", stopped)
        self.reconciler = Reconciler(self.store, self.poller.now)
        self.driver = ComposeDriver(
            self.poller, self.reconciler.post, self._forbid_threads, self, self.reader,
            self.engine.make_watch, self.compose, self.actions,
        )  # fmt: skip
        self.reconciler.driver = self.driver
        self.manager = RequestHandler(
            self.reconciler, self.store, MemoryJournal(), self.poller.now, Recovered(), self.driver.manage
        )
        self.listed: dict[str, Target] = {}
        self.agent_class = "Agent"

    @initialize(listed=st.dictionaries(names, target_states), running=st.sets(names), present=st.booleans())
    def start(self, listed: dict[str, Target], running: set[str], *, present: bool) -> None:
        """Start with a site config, running services, and the engine up or away."""
        for name in sorted(running):
            self.start_manually(name)
        self.engine.present = present
        self.listed = listed
        self.manager.start(self.config(), (), catalog=self.reader.load())
        self.run_reconciler()

    # --- the supervisor

    def _forbid_threads(self, callback: Callable[[], None]) -> None:
        raise AssertionError("nothing here is on a thread of its own")

    def surveyed(self, survey: Survey) -> None:
        self.manager.take_survey(survey)

    def files_changed(self) -> None:
        raise AssertionError("no file is watched here")

    def config(self) -> MemoryConfig:
        specs = (
            InstanceSpec(i, self.agent_class, Management.DOCKER, target) for i, target in self.listed.items()
        )
        return MemoryConfig(HostSpec("host", tuple(specs)))

    def run_reconciler(self) -> None:
        """Run the reconciler until no work is left at this moment."""
        for _ in range(200):
            more = self.reconciler.step()
            self.poller.advance(0.0)
            due = self.reconciler.next_deadline()
            if not more and not self.reconciler._dirty and (due is None or due > self.poller.now().mono):
                return
        raise AssertionError("the reconciler never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, waking up where the supervisor would."""
        until = self.poller.now().mono + seconds
        self.run_reconciler()
        while (left := until - self.poller.now().mono) > 0:
            waits = [left]
            if (due := self.reconciler.next_deadline()) is not None:
                waits.append(due - self.poller.now().mono)
            if (call := self.poller.next_call) is not None:
                waits.append(call)
            self.poller.advance(max(0.0, min(waits)))
            self.run_reconciler()

    # --- requests and configs

    @rule(name=st.sampled_from([*NAMES, ALL]), wanted=target_states)
    def update(self, name: str, wanted: Target) -> None:
        try:
            self.manager.update(None, [TargetChange(name, wanted)])
        except RequestError:
            instance = self.reconciler.instances.get(name)
            assert instance is None or instance.retired

    @rule(name=names)
    def restart(self, name: str) -> None:
        try:
            self.manager.of_instances.restart([name])
        except RequestError:
            instance = self.reconciler.instances.get(name)
            assert (
                instance is None
                or instance.retired
                or instance.wanted.target is not Target.UP
                or instance.spec.service is None
            )

    @rule(name=names, wanted=target_states)
    def add_to_site_config(self, name: str, wanted: Target) -> None:
        self.listed[name] = wanted
        self.manager.update(self.config(), (), catalog=self.reader.load())

    @rule(agent_class=st.sampled_from(["Agent", "Other"]))
    def change_the_class(self, agent_class: str) -> None:
        self.agent_class = agent_class
        self.manager.update(self.config(), (), catalog=self.reader.load())

    @rule(name=names)
    def remove_from_site_config(self, name: str) -> None:
        self.listed.pop(name, None)
        self.manager.update(self.config(), (), catalog=self.reader.load())

    @rule(name=names)
    def remove_from_compose_file(self, name: str) -> None:
        self.reader.services.pop(name, None)
        self.manager.take_catalog(self.reader.load())

    @rule(name=names, config_hash=st.sampled_from(["hash", "other"]))
    def write_compose_file(self, name: str, config_hash: str) -> None:
        self.reader.services[name] = service(name, replicas=REPLICAS[name], config_hash=config_hash)
        self.manager.take_catalog(self.reader.load())

    # --- engine and compose

    @rule()
    def step_once(self) -> None:
        self.reconciler.step()

    @rule(seconds=st.sampled_from([0.0, 0.04, 0.2, 5.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(count=st.integers(0, 2))
    def compose_proceeds(self, count: int) -> None:
        if self.compose.current_call is not None:
            self.compose.proceed(count)

    @rule()
    def compose_finishes(self) -> None:
        if self.compose.current_call is not None:
            self.compose.finish()

    @rule(name=names, code=st.integers(0, 1))
    def crash(self, name: str, code: int) -> None:
        for container in self.engine.running(name)[:1]:
            self.engine.end(container, code)

    @rule(name=names)
    def start_by_hand(self, name: str) -> None:
        self.start_manually(name)

    @rule(name=names)
    def remove_by_hand(self, name: str) -> None:
        for container in self.engine.containers_of(name):
            self.engine.remove(container)

    @rule()
    def engine_leaves(self) -> None:
        self.engine.leave()

    @rule()
    def engine_comes_back(self) -> None:
        self.engine.come_back()

    @rule(name=names)
    def engine_dies_starting(self, name: str) -> None:
        for container in self.engine.containers_of(name):
            if not container.running:
                self.engine.leave()
                self.engine.leave_unstartable(container)

    @rule(present=st.booleans())
    def set_image(self, *, present: bool) -> None:
        self.engine.images = {IMAGE: "sha256:1"} if present else {}

    @rule(unstartable=st.sets(names), ending=st.sets(names))
    def set_behaviour(self, unstartable: set[str], ending: set[str]) -> None:
        self.actions.unstartable = unstartable
        self.actions.exit_codes = dict.fromkeys(ending, 3)

    def start_manually(self, name: str) -> None:
        if IMAGE in self.engine.images:
            wanted = self.reader.services.get(name) or service(name)
            container = next(iter(self.engine.containers_of(name)), None) or self.engine.create(wanted, 1)
            if not container.running and not container.unstartable:
                self.engine.run(self.engine.containers[container.id])

    # --- invariants

    @invariant()
    def no_replica_runs_twice(self) -> None:
        for name in NAMES:
            numbers = [container.number for container in self.engine.running(name)]
            assert len(numbers) == len(set(numbers)) <= REPLICAS[name]

    @rule()
    def settle(self) -> None:
        """Check that services run as wanted, given an engine, images and time.

        The shown status must be true.
        """
        self.engine.come_back()
        self.set_image(present=True)
        self.set_behaviour(set(), set())
        for _ in range(20):
            self.pass_time(QUIET)
            if self.compose.current_call is None:
                break
            self.compose.finish()
        assert self.compose.current_call is None, "calls of compose never end"
        calls = len(self.compose.log), len(self.actions.log)
        before = dict(self.engine.containers)
        for name, instance in self.reconciler.instances.items():
            running = self.engine.running(name)
            assert not instance.observed.unobservable
            if instance.spec.service is None:
                assert instance.standing.state is State.UNKNOWN, instance
                continue
            assert (instance.standing.state is State.UP) == bool(running), instance
            assert instance.observed.service is not None
            assert instance.observed.service.running_replicas == len(running)
            if name in self.listed:
                assert instance.wanted.target is not Target.PASSIVE
                assert len(running) == (REPLICAS[name] if instance.wanted.target is Target.UP else 0), (
                    instance
                )
                assert instance.standing.observed_generation == instance.wanted.generation
            else:
                assert (instance.spec.agent_class, instance.wanted.target) == (UNCLAIMED, Target.PASSIVE)
        assert set(self.reconciler.instances) == set(self.listed) | set(self.reader.services)
        self.pass_time(QUIET)
        assert (len(self.compose.log), len(self.actions.log)) == calls, (
            "compose is called although every service is as wanted"
        )
        assert self.engine.containers == before

    def teardown(self) -> None:
        if self.reconciler.instances:
            self.settle()


TestServices = ServicesMachine.TestCase
TestServices.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
