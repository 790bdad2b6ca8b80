"""Manager, engine and compose driver over an engine in memory, which comes and goes while requests, config
changes, crashes and deeds by hand arrive in any order."""

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
from hostmanager_server.supervisor.manager import RequestHandler
from hostmanager_server.supervisor.reconciler import Reconciler
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.drivers.compose.fake_compose import IMAGE, FakeCompose, FakeEngine, FakeReader, service
from tests.fakes.driver import FakePoller
from tests.in_memory import MemoryJournal, ReadConfig

NAMES = ("a", "b", "c")
REPLICAS = {"a": 1, "b": 1, "c": 2}
names = st.sampled_from(NAMES)
targets = st.sampled_from([Target.UP, Target.DOWN])
QUIET = 120.0  # s: longer than every backoff, so that whatever was put off is done


class ServicesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.poller = FakePoller()
        self.there = FakeEngine(self.poller)
        self.reader = FakeReader(*(service(name, replicas=REPLICAS[name]) for name in NAMES))
        self.compose = FakeCompose(self.there, self.reader)
        stopped = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
        self.store = Store("epoch", stopped)
        self.engine = Reconciler(self.store, self.poller.now)
        self.driver = ComposeDriver(
            self.poller, self.engine.post, self._never, self, self.reader, self.there.watched_by, self.compose
        )  # fmt: skip
        self.engine.driver = self.driver
        self.manager = RequestHandler(
            self.engine, self.store, MemoryJournal(), self.poller.now, Recovered(), self.driver.manage
        )
        self.listed: dict[str, Target] = {}
        self.agent_class = "Agent"

    @initialize(listed=st.dictionaries(names, targets), running=st.sets(names), there=st.booleans())
    def begin(self, listed: dict[str, Target], running: set[str], there: bool) -> None:
        """What the site config says at first, what runs already, and whether the engine does."""
        for name in sorted(running):
            self.by_hand(name)
        self.there.present = there
        self.listed = listed
        self.manager.start(self.config(), (), catalog=self.reader.load())
        self.turn()

    # --- the supervisor

    def _never(self, callback: Callable[[], None]) -> None:
        raise AssertionError("nothing here is on a thread of its own")

    def surveyed(self, survey: Survey) -> None:
        self.manager.take_survey(survey)

    def files_changed(self) -> None:
        raise AssertionError("no file is watched here")

    def config(self) -> ReadConfig:
        specs = (
            InstanceSpec(i, self.agent_class, Management.DOCKER, target) for i, target in self.listed.items()
        )
        return ReadConfig(HostSpec("host", tuple(specs)))

    def turn(self) -> None:
        """Rounds until nothing is left to do at this moment."""
        for _ in range(200):
            more = self.engine.step()
            self.poller.advance(0.0)
            due = self.engine.next_deadline()
            if not more and not self.engine._dirty and (due is None or due > self.poller.now().mono):
                return
        raise AssertionError("the engine never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, waking up where the supervisor would."""
        until = self.poller.now().mono + seconds
        self.turn()
        while (left := until - self.poller.now().mono) > 0:
            waits = [left]
            if (due := self.engine.next_deadline()) is not None:
                waits.append(due - self.poller.now().mono)
            if (call := self.poller.next_call) is not None:
                waits.append(call)
            self.poller.advance(max(0.0, min(waits)))
            self.turn()

    # --- requests and configs

    @rule(who=st.sampled_from([*NAMES, ALL]), wanted=targets)
    def update(self, who: str, wanted: Target) -> None:
        try:
            self.manager.update(None, [TargetChange(who, wanted)])
        except RequestError:
            instance = self.engine.instances.get(who)
            assert instance is None or instance.retired

    @rule(who=names)
    def restart(self, who: str) -> None:
        try:
            self.manager.restart([who])
        except RequestError:
            instance = self.engine.instances.get(who)
            assert (
                instance is None
                or instance.retired
                or instance.wanted.target is not Target.UP
                or instance.spec.service is None
            )

    @rule(who=names, wanted=targets)
    def list_in_the_site_config(self, who: str, wanted: Target) -> None:
        self.listed[who] = wanted
        self.manager.update(self.config(), (), catalog=self.reader.load())

    @rule(agent_class=st.sampled_from(["Agent", "Other"]))
    def change_the_class(self, agent_class: str) -> None:
        self.agent_class = agent_class
        self.manager.update(self.config(), (), catalog=self.reader.load())

    @rule(who=names)
    def strike_from_the_site_config(self, who: str) -> None:
        self.listed.pop(who, None)
        self.manager.update(self.config(), (), catalog=self.reader.load())

    @rule(who=names)
    def strike_from_the_compose_file(self, who: str) -> None:
        self.reader.services.pop(who, None)
        self.manager.take_catalog(self.reader.load())

    @rule(who=names, config_hash=st.sampled_from(["hash", "other"]))
    def write_into_the_compose_file(self, who: str, config_hash: str) -> None:
        self.reader.services[who] = service(who, replicas=REPLICAS[who], config_hash=config_hash)
        self.manager.take_catalog(self.reader.load())

    # --- what happens

    @rule()
    def turn_once(self) -> None:
        self.engine.step()

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

    @rule(who=names, code=st.integers(0, 1))
    def crash(self, who: str, code: int) -> None:
        for container in self.there.running(who)[:1]:
            self.there.end(container, code)

    @rule(who=names)
    def start_by_hand(self, who: str) -> None:
        self.by_hand(who)

    @rule(who=names)
    def remove_by_hand(self, who: str) -> None:
        for container in self.there.of(who):
            self.there.remove(container)

    @rule()
    def engine_leaves(self) -> None:
        self.there.leave()

    @rule()
    def engine_comes_back(self) -> None:
        self.there.come_back()

    @rule(who=names)
    def engine_dies_starting(self, who: str) -> None:
        for container in self.there.of(who):
            if not container.running:
                self.there.leave()
                self.there.leave_unstartable(container)

    @rule(there=st.booleans())
    def image(self, there: bool) -> None:
        self.there.images = {IMAGE: "sha256:1"} if there else {}

    @rule(unstartable=st.sets(names), ending=st.sets(names))
    def behave(self, unstartable: set[str], ending: set[str]) -> None:
        self.compose.unstartable = unstartable
        self.compose.codes = dict.fromkeys(ending, 3)

    def by_hand(self, who: str) -> None:
        if IMAGE in self.there.images:
            wanted = self.reader.services.get(who) or service(who)
            container = next(iter(self.there.of(who)), None) or self.there.create(wanted, 1)
            if not container.running and not container.unstartable:
                self.there.run(self.there.containers[container.id])

    # --- what always holds

    @invariant()
    def never_two(self) -> None:
        for name in NAMES:
            numbers = [container.number for container in self.there.running(name)]
            assert len(numbers) == len(set(numbers)) <= REPLICAS[name]

    @rule()
    def settle(self) -> None:
        """With an engine, images, and time, what runs is what is wanted, and what is shown is what runs."""
        self.there.come_back()
        self.image(True)
        self.behave(set(), set())
        for _ in range(20):
            self.pass_time(QUIET)
            if self.compose.current_call is None:
                break
            self.compose.finish()
        assert self.compose.current_call is None, "there is no end of calls"
        calls = len(self.compose.log)
        before = dict(self.there.containers)
        for who, instance in self.engine.instances.items():
            running = self.there.running(who)
            assert not instance.observed.unobservable
            if instance.spec.service is None:
                assert instance.standing.state is State.UNKNOWN, instance
                continue
            assert (instance.standing.state is State.UP) == bool(running), instance
            assert instance.observed.service is not None
            assert instance.observed.service.running_replicas == len(running)
            if who in self.listed:
                assert instance.wanted.target is not Target.PASSIVE
                assert len(running) == (REPLICAS[who] if instance.wanted.target is Target.UP else 0), instance
                assert instance.standing.observed_generation == instance.wanted.generation
            else:
                assert (instance.spec.agent_class, instance.wanted.target) == (UNCLAIMED, Target.PASSIVE)
        assert set(self.engine.instances) == set(self.listed) | set(self.reader.services)
        self.pass_time(QUIET)
        assert len(self.compose.log) == calls, "nothing more is done once all is as wanted"
        assert self.there.containers == before

    def teardown(self) -> None:
        if self.engine.instances:
            self.settle()


TestServices = ServicesMachine.TestCase
TestServices.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
