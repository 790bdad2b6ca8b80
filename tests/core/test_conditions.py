"""Conditions of compose services: paused, unhealthy, restarted by the engine, without containers."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core.actions import Launch, Stop
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.event_log import EntryKind, Severity
from hostmanager_server.core.events import Appeared, Exited, ExitStatus, Gone, RunKey, ServiceObserved
from hostmanager_server.core.model import State, new_instance
from hostmanager_server.core.spec import Backoff, InstanceSpec, Management, RestartPolicy, ServiceSpec, Target

from tests.core.scripted_instance import ScriptedInstance

SERVICE = ServiceSpec("lab", ("/lab/compose.yaml",), "ocs-a", "agent:1")
GONE = ServiceStatus(image_id="i")
UP = replace(
    GONE, container_id="c1", container_name="lab-ocs-a-1", running=True, running_image="i", running_replicas=1
)
PAUSED = replace(UP, status="paused", paused_replicas=1)
SICK = replace(UP, health="unhealthy", unhealthy_replicas=1)


def service(target: Target = Target.UP, **changes: object) -> ScriptedInstance:
    policy = RestartPolicy(backoff=Backoff(initial=1.0))
    spec = InstanceSpec("a", "Agent", Management.DOCKER, target, service=SERVICE, restart=policy)
    return ScriptedInstance(new_instance(replace(spec, **changes)))  # type: ignore[arg-type]  # the test's choice


def running(status: ServiceStatus = UP, target: Target = Target.UP) -> ScriptedInstance:
    s = service(target)
    s.post(ServiceObserved("a", status), Appeared(RunKey("a", 1), 4711, s.now))
    return s


def shown(s: ScriptedInstance) -> tuple[State, str]:
    return s.instance.standing.state, s.instance.standing.reason


def test_a_paused_service_is_not_up_until_it_goes_on() -> None:
    s = running()
    assert s.post(ServiceObserved("a", PAUSED)) == []
    assert shown(s) == (State.WAIT_START, "Paused")
    assert "docker unpause lab-ocs-a-1" in s.instance.standing.message
    assert (s.instance.settled, s.due()) == (False, None)
    assert s.wait(3600.0) == []
    assert s.post(ServiceObserved("a", UP)) == []
    assert shown(s) == (State.UP, "Running")
    assert s.reasons() == ["FoundRunning", "Paused", "Resumed", "Up"]
    assert {e.kind for e in s.entries[1:3]} == {EntryKind.CONDITION}
    assert s.instance.standing.restarts == 0


def test_a_service_found_paused_is_not_up() -> None:
    for target in (Target.UP, Target.PASSIVE):
        assert shown(running(PAUSED, target)) == (State.WAIT_START, "Paused")


def test_a_paused_passive_service_is_up_again_when_it_goes_on() -> None:
    s = running(PAUSED, Target.PASSIVE)
    s.post(ServiceObserved("a", UP))
    assert s.state() is State.UP


def test_a_paused_service_stops_and_restarts_on_request() -> None:
    s = running(PAUSED)
    (stop,) = s.target(Target.DOWN)
    assert isinstance(stop, Stop)
    assert s.state() is State.WAIT_DEAD
    s.post(ServiceObserved("a", GONE))
    s.ends(137)
    assert s.state() is State.DOWN
    s = running(PAUSED)
    (stop,) = s.restart()
    assert isinstance(stop, Stop)


def test_a_paused_service_that_is_killed_starts_again() -> None:
    s = running(PAUSED)
    s.post(ServiceObserved("a", replace(GONE, container_id="c1", status="exited")))
    s.ends(137)
    assert s.state() is State.START_AT
    (launch,) = s.until_state_deadline()
    assert isinstance(launch, Launch)


def test_a_service_with_some_paused_containers_is_up_and_says_so() -> None:
    s = running(replace(PAUSED, running_replicas=3))
    assert shown(s) == (State.UP, "Paused")
    assert "1 of 3 containers" in s.instance.standing.message


def test_an_unhealthy_service_is_up_and_says_so() -> None:
    s = running(replace(UP, health="starting"))
    assert shown(s) == (State.UP, "Running")
    assert s.post(ServiceObserved("a", SICK)) == []
    assert shown(s) == (State.UP, "Unhealthy")
    assert s.instance.settled
    s.post(ServiceObserved("a", replace(SICK, image_id="other")))
    s.post(ServiceObserved("a", replace(UP, health="healthy")))
    assert shown(s) == (State.UP, "Running")
    assert s.reasons() == ["FoundRunning", "Unhealthy", "Healthy"]
    assert s.entries[1].severity is Severity.WARNING


def test_an_unhealthy_service_that_is_paused_goes_on_unhealthy() -> None:
    s = running(SICK)
    s.post(ServiceObserved("a", replace(SICK, paused_replicas=1)))
    assert shown(s) == (State.WAIT_START, "Paused")
    s.post(ServiceObserved("a", SICK))
    assert shown(s) == (State.UP, "Unhealthy")


def test_the_failures_are_forgotten_also_while_unhealthy() -> None:
    s = running()
    s.ends(1)
    s.until_state_deadline()
    s.started()
    s.post(ServiceObserved("a", SICK))
    s.ready()
    assert shown(s) == (State.UP, "Unhealthy")
    s.until_state_deadline()
    assert s.instance.standing.failures == 0


def test_an_end_for_lack_of_memory_is_told() -> None:
    s = running()
    status = ExitStatus(code=137, out_of_memory=True)
    s.post(Exited(s.instance.run_key(), status, s.now), Gone(s.instance.run_key(), s.now))
    last_exit = s.instance.observed.last_exit
    assert last_exit is not None
    assert last_exit.why == "ended with code 137 (out of memory)"
    assert "out of memory" in s.instance.standing.message
    assert "out of memory" in s.entries[-1].message


def test_a_restart_by_the_engine_is_told() -> None:
    restarting = replace(GONE, container_id="c1", status="restarting", restarting=True)
    s = running()
    s.post(ServiceObserved("a", restarting))
    s.ends(1)
    assert s.state() is State.START_AT
    assert "the engine restarts the container" in s.instance.standing.message
    s.post(ServiceObserved("a", replace(restarting, status="exited", restarting=False)))
    assert "the engine restarts" not in s.instance.standing.message
    s = running(target=Target.PASSIVE)
    s.post(ServiceObserved("a", restarting))
    s.ends(1)
    assert s.instance.standing.message == "last exit: code 1; the engine restarts the container"


def test_a_service_without_wanted_containers_is_finished() -> None:
    s = service(service=replace(SERVICE, replicas=0))
    assert s.post(ServiceObserved("a", GONE)) == []
    assert shown(s) == (State.DOWN, "Finished")
    assert "no containers" in s.instance.standing.message
    assert s.instance.settled
    assert s.restart() == []
    s.target(Target.DOWN)
    assert shown(s) == (State.DOWN, "Stopped")
    s.target(Target.UP)
    s.instance = replace(s.instance, spec=replace(s.instance.spec, service=SERVICE))
    (launch,) = s.decide()
    assert isinstance(launch, Launch)


def test_a_crashed_service_is_not_started_when_no_container_is_wanted_any_longer() -> None:
    s = running()
    s.ends(1)
    s.instance = replace(s.instance, spec=replace(s.instance.spec, service=replace(SERVICE, replicas=0)))
    assert s.until_state_deadline() == []
    assert shown(s) == (State.DOWN, "Finished")
    assert s.wait(3600.0) == []
