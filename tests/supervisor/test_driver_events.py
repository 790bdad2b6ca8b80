"""Events that a driver posts from inside a call of the reconciler."""

from __future__ import annotations

from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.events import Exited, ExitStatus, Ready, RunKey, ServiceObserved, Started
from hostmanager_server.core.model import Instance, Phase, State, new_instance
from hostmanager_server.core.spec import InstanceSpec, Management, ServiceSpec, Target

from tests.fakes.driver import FakeDriver, FakeDriverHost, FakePoller
from tests.supervisor.conftest import ManagerHarness, spec


class PostingDriver(FakeDriver):
    """A driver that posts events from inside `launch`.

    `during_launch` holds the instance at the end of each call.
    """

    def __init__(self, harness: ManagerHarness) -> None:
        super().__init__(harness.poller, harness.reconciler.post, FakeDriverHost(FakePoller()))
        self._harness = harness
        self.during_launch: list[Instance] = []

    def launch(self, run: RunKey, spec: InstanceSpec) -> None:
        now = self._harness.poller.now()
        self._harness.reconciler.post(Started(run, 77, now))
        self._harness.reconciler.post(Ready(run, now))
        self.during_launch.append(self._harness.instances[run.instance_id])


def test_the_reconciler_folds_events_of_a_launch_after_the_launch_returned(harness: ManagerHarness) -> None:
    driver = harness.reconciler.driver = PostingDriver(harness)
    harness.start(spec("a"))
    harness.reconciler.step()
    (during,) = driver.during_launch
    assert during.observed.run is not None
    assert during.observed.run.phase is Phase.LAUNCHING


def test_events_of_a_launch_reach_readers_with_the_launch(harness: ManagerHarness) -> None:
    harness.reconciler.driver = PostingDriver(harness)
    revision = harness.start(spec("a")).revision
    harness.reconciler.step()
    assert harness.store.revision == revision + 1
    assert harness.store.snapshot().instances["a"].instance.standing.state is State.UP


def test_events_that_a_driver_posts_about_a_later_instance_of_a_request_are_kept(
    harness: ManagerHarness,
) -> None:
    class Driver(FakeDriver):
        def follow(self, spec: InstanceSpec) -> None:
            harness.reconciler.post(ServiceObserved("b", ServiceStatus(container_id="c")))

    def service(name: str, image: str) -> Instance:
        compose = ServiceSpec("lab", ("/lab/compose.yaml",), name, image)
        return new_instance(InstanceSpec(name, "Agent", Management.DOCKER, service=compose), Target.PASSIVE)

    harness.reconciler.driver = Driver(harness.poller, harness.reconciler.post, harness.host)
    harness.reconciler.apply({"b": service("b", "agent:1")})
    same_spec = harness.instances["b"].spec
    changed = {"a": service("a", "agent:1"), "b": new_instance(same_spec, Target.PASSIVE, generation=2)}
    harness.reconciler.apply(changed)
    status = harness.instances["b"].observed.service
    assert status is not None
    assert status.container_id == "c"


def test_events_between_calls_are_folded_at_once(harness: ManagerHarness) -> None:
    harness.start(spec("a"))
    harness.turn()
    run = harness.alive("a")[0]
    harness.reconciler.post(Exited(run, ExitStatus(code=3), harness.poller.now()))
    observed = harness.instances["a"].observed.run
    assert observed is not None
    assert observed.phase is Phase.ENDING
