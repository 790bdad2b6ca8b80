"""A harness for the reconciler and the manager, on a clock that the test advances."""

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
from hostmanager_server.supervisor.reconciler import Reconciler
from hostmanager_server.supervisor.request_handler import RequestHandler

from tests.fakes.driver import FakeDriver, FakeDriverHost, FakePoller
from tests.in_memory import MemoryConfig, MemoryJournal


def spec(instance_id: str, agent_class: str = "Agent", **changes: object) -> InstanceSpec:
    settings: dict[str, object] = {"process": ProcessSpec((instance_id,)), **changes}
    return InstanceSpec(instance_id, agent_class, **settings)  # type: ignore[arg-type]  # one call site for all


@dataclass
class ManagerHarness:
    """A manager without a supervisor thread; `turn` plays the thread."""

    removals_kept: int = 10_000
    poller: FakePoller = field(default_factory=FakePoller)

    def __post_init__(self) -> None:
        self.host = FakeDriverHost(self.poller)
        self.journal = MemoryJournal()
        self._begin(Recovered())

    def _begin(self, left: Recovered) -> None:
        stopped = ManagerStatus(ManagerState.STOPPED, "host", "site.yaml")
        self.store = Store("epoch", stopped, removals_kept=self.removals_kept)
        self.reconciler = Reconciler(self.store, self.poller.now)
        self.driver = FakeDriver(self.poller, self.reconciler.post, self.host)
        self.reconciler.driver = self.driver
        self.manager = RequestHandler(self.reconciler, self.store, self.journal, self.poller.now, left)

    def die(self) -> None:
        """Kill the daemon, and begin another with a stopped manager."""
        self.driver.disown()
        journal = self.journal
        self._begin(Recovered(dict(journal.targets), dict(journal.histories), dict(journal.holds)))

    @property
    def instances(self) -> Mapping[str, Instance]:
        return self.reconciler.instances

    def start(self, *specs: InstanceSpec) -> Accepted:
        return self.manager.start(MemoryConfig(HostSpec("host", specs)), ())

    def reload(self, *specs: InstanceSpec) -> Accepted:
        return self.manager.update(MemoryConfig(HostSpec("host", specs)), ())

    def turn(self) -> None:
        """Run rounds until no work is left at the present time."""
        for _ in range(1000):
            more = self.reconciler.step()
            self.manager.save_decisions()
            if not more:
                self.manager.finish_stopping()
            due = self.reconciler.next_deadline()
            self.poller.advance(0.0)
            if not more and (due is None or due > self.poller.now().mono) and not self.reconciler._dirty:
                return
        raise AssertionError("the engine never comes to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a round at each moment when the supervisor would wake up."""
        until = self.poller.now().mono + seconds
        self.turn()
        while True:
            now = self.poller.now().mono
            waits = [until - now]
            if (due := self.reconciler.next_deadline()) is not None:
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
def harness() -> ManagerHarness:
    return ManagerHarness()


@contextlib.contextmanager
def unchanged(read: Callable[[], object]) -> Iterator[None]:
    """Check that `read` returns the same value before and after the block."""
    before = read()
    yield
    assert read() == before
