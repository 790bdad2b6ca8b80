"""The engine and the manager, played by hand on a clock that a test turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hostmanager_server.core.events import RunKey
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import Instance
from hostmanager_server.core.recovery import Recovered
from hostmanager_server.core.spec import HostSpec, InstanceSpec, ProcessSpec
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.errors import Accepted
from hostmanager_server.supervisor.manager import RequestHandler
from hostmanager_server.supervisor.reconciler import Reconciler

from tests.fakes.driver import FakeDriver, FakeHost, FakePoller
from tests.in_memory import MemoryJournal, ReadConfig


def spec(instance_id: str, agent_class: str = "Agent", **changes: object) -> InstanceSpec:
    settings: dict[str, object] = {"process": ProcessSpec((instance_id,)), **changes}
    return InstanceSpec(instance_id, agent_class, **settings)  # type: ignore[arg-type]  # one call site for all


@dataclass
class Bench:
    """A manager without its thread. `turn` is one round of that."""

    removals_kept: int = 10_000
    poller: FakePoller = field(default_factory=FakePoller)

    def __post_init__(self) -> None:
        self.host = FakeHost(self.poller)
        self.journal = MemoryJournal()
        self._begin(Recovered())

    def _begin(self, left: Recovered) -> None:
        stopped = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
        self.store = Store("epoch", stopped, removals_kept=self.removals_kept)
        self.engine = Reconciler(self.store, self.poller.now)
        self.driver = FakeDriver(self.poller, self.engine.post, self.host)
        self.engine.driver = self.driver
        self.manager = RequestHandler(self.engine, self.store, self.journal, self.poller.now, left)

    def die(self) -> None:
        """The daemon ends without warning, and another begins; its manager is to be started."""
        self.driver.disown()
        self._begin(Recovered(dict(self.journal.targets), dict(self.journal.histories)))

    @property
    def instances(self) -> Mapping[str, Instance]:
        return self.engine.instances

    def start(self, *specs: InstanceSpec) -> Accepted:
        return self.manager.start(ReadConfig(HostSpec("host", specs)), (), False)

    def reload(self, *specs: InstanceSpec) -> Accepted:
        return self.manager.update(ReadConfig(HostSpec("host", specs)), (), False)

    def turn(self) -> None:
        """Rounds until nothing is left to do at this moment."""
        for _ in range(1000):
            more = self.engine.step()
            self.manager.save_decisions()
            if not more:
                self.manager.finish_stopping()
            due = self.engine.next_deadline()
            self.poller.advance(0.0)
            if not more and (due is None or due > self.poller.now().mono) and not self.engine._dirty:
                return
        raise AssertionError("the engine never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, waking up where the supervisor would."""
        until = self.poller.now().mono + seconds
        self.turn()
        while True:
            now = self.poller.now().mono
            waits = [until - now]
            if (due := self.engine.next_deadline()) is not None:
                waits.append(due - now)
            if (call := self.poller.next_call) is not None:
                waits.append(call)
            self.poller.advance(max(0.0, min(waits)))
            self.turn()
            if self.poller.now().mono >= until:
                return

    def alive(self, instance_id: str) -> list[RunKey]:
        return [run.key for run in self.host.runs if run.key.instance_id == instance_id]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@contextlib.contextmanager
def unchanged(read: Callable[[], object]) -> Iterator[None]:
    """What `read` gives is the same after the block."""
    before = read()
    yield
    assert read() == before
