"""The order of ends and replacements: readers learn of all ends before the first replacement is launched."""

from __future__ import annotations

import pytest
from hostmanager_server.core.event_log import EntryKind
from hostmanager_server.core.events import Exited, ExitStatus, Gone, RunKey
from hostmanager_server.core.model import State
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import Backoff, InstanceSpec, RestartPolicy, Target

from tests.fakes.driver import FakeDriver
from tests.supervisor.conftest import ManagerHarness, spec

IDS = [f"a{number}" for number in range(5)]


class WatchingDriver(FakeDriver):
    """A driver whose launches take `cost` s, and note how many ends readers knew at the time."""

    def __init__(self, harness: ManagerHarness, cost: float) -> None:
        super().__init__(harness.poller, harness.reconciler.post, harness.host)
        self._harness = harness
        self._cost = cost
        self.known: list[int] = []

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        events = self._harness.store.events_since(0).events
        self.known.append(sum(event.entry.kind is EntryKind.EXIT for event in events))
        super().launch(run, spec)
        self._harness.poller.advance(self._cost)


@pytest.fixture
def driver(harness: ManagerHarness) -> WatchingDriver:
    """Bring all instances up."""
    driver = WatchingDriver(harness, cost=0.02)
    harness.reconciler.driver = driver
    at_once = RestartPolicy(backoff=Backoff(initial=0.0))
    harness.start(*(spec(instance_id, restart=at_once) for instance_id in IDS))
    harness.turn()
    assert all(harness.instances[i].standing.state is State.UP for i in IDS)
    driver.known.clear()
    return driver


def end_all(harness: ManagerHarness) -> None:
    """Let all runs end in one round."""
    for instance_id in IDS:
        harness.host.crash(instance_id, ExitStatus(code=1))
    harness.poller.advance(0.0)


def ask(harness: ManagerHarness, target: Target) -> None:
    harness.manager.update(None, [TargetChange(instance_id, target) for instance_id in IDS])
    harness.turn()


def test_all_ends_of_a_round_are_published_before_the_first_replacement(
    harness: ManagerHarness, driver: WatchingDriver
) -> None:
    woken: list[int] = []
    harness.reconciler.let_readers_run = lambda: woken.append(harness.store.revision)
    end_all(harness)
    before = harness.store.revision
    harness.turn()
    assert driver.known == [len(IDS)] * len(IDS)
    assert woken == [before + 1]  # one publication for all ends, and once the time to read


def test_launches_after_a_burst_leave_the_loop_its_turns(
    harness: ManagerHarness, driver: WatchingDriver
) -> None:
    end_all(harness)
    assert harness.reconciler.step()
    assert 0 < len(driver.known) < len(IDS)


def test_a_stop_overtakes_a_launch_that_has_not_had_its_turn(
    harness: ManagerHarness, driver: WatchingDriver
) -> None:
    end_all(harness)
    harness.reconciler.step()
    started = len(driver.known)
    ask(harness, Target.DOWN)
    assert len(driver.known) == started
    assert all(harness.instances[i].standing.state is State.DOWN for i in IDS)
    ask(harness, Target.UP)
    assert all(harness.instances[i].standing.state is State.UP for i in IDS)


def test_a_dropped_instance_is_not_launched(harness: ManagerHarness, driver: WatchingDriver) -> None:
    end_all(harness)
    harness.reconciler.step()
    started = len(driver.known)
    harness.reconciler.drop(IDS)
    harness.reconciler.step()
    assert len(driver.known) == started


def test_a_start_without_an_end_is_published_with_its_launch(harness: ManagerHarness) -> None:
    harness.start(spec("a"))
    revision = harness.store.revision
    harness.reconciler.let_readers_run = lambda: pytest.fail("no end is published")
    harness.reconciler.step()
    assert harness.store.revision == revision + 1


def test_an_end_within_a_decision_is_published_before_the_next_launch(
    harness: ManagerHarness, driver: WatchingDriver
) -> None:
    class Ends(WatchingDriver):
        """A driver whose first launch lets another run end."""

        def launch(self, run: RunKey, spec: InstanceSpec) -> None:
            super().launch(run, spec)
            if len(self.known) == 1:
                (other,) = harness.alive(IDS[1])
                now = harness.poller.now()
                harness.reconciler.post(Exited(other, ExitStatus(code=1), now))
                harness.reconciler.post(Gone(other, now))

    ends = harness.reconciler.driver = Ends(harness, cost=0.0)
    harness.host.crash(IDS[0], ExitStatus(code=1))
    harness.poller.advance(0.0)
    harness.turn()
    assert ends.known == [1, 2]
