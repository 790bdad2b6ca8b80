"""Tests of starts that wait for dependencies, and of services that restart with others."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hostmanager_server.core.events import Outdated, RunKey, StartDelayed, StartFailed
from hostmanager_server.core.spec import Condition, ServiceDependency

from tests.drivers.compose.driver_harness import DriverHarness, services
from tests.drivers.compose.fake_compose import service


def waiting_for_health(*, required: bool = True) -> DriverHarness:
    """Return a harness with `d`, which depends on the health of `h`, and the unrelated `b`."""
    dependency = ServiceDependency("h", Condition.HEALTHY, required=required)
    harness = DriverHarness(service("d", dependencies=(dependency,)), *services("hb"))
    harness.launch("d")
    harness.finish_all()
    return harness


def set_health(harness: DriverHarness, health: str) -> None:
    (container,) = harness.engine.running("h")
    harness.engine.put(replace(container, health=health))
    harness.settle()


def test_a_start_waits_for_the_health_of_a_dependency_and_says_so() -> None:
    harness = waiting_for_health()
    delayed = harness.event("d", StartDelayed)
    assert isinstance(delayed, StartDelayed)
    assert delayed.why == "h to be healthy"
    assert (harness.compose.log, harness.compose.current_call) == (["up h d"], None)  # no program waits
    harness.launch("b")
    harness.finish_all()
    assert harness.event_kinds("b") == ["Started", "Ready"]
    set_health(harness, "unhealthy")
    assert harness.event_kinds("d") == ["StartDelayed", "StartDelayed"]
    set_health(harness, "healthy")
    assert harness.event_kinds("d")[2:] == ["StartDelayed", "Started", "Ready"]


def test_an_unhealthy_dependency_that_is_not_required_delays_no_start() -> None:
    harness = waiting_for_health(required=False)
    set_health(harness, "unhealthy")
    assert harness.event_kinds("d")[-2:] == ["Started", "Ready"]


def test_a_dependency_that_ends_before_it_was_healthy_fails_the_start() -> None:
    harness = waiting_for_health()
    harness.engine.end(harness.engine.running("h")[0], 3)
    harness.settle()
    failed = harness.event("d", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "dependency 'h' ended with code 3 before it was healthy" in failed.why


def test_a_dependency_that_is_stopped_fails_the_start_and_is_named_so() -> None:
    harness = waiting_for_health()
    harness.driver.stop(RunKey("h", 1), signal.SIGKILL, whole_tree=True)
    harness.settle()
    harness.engine.end(harness.engine.running("h")[0], 137)
    harness.settle()
    failed = harness.event("d", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "dependency 'h' is stopped, by a request or as its target is down" in failed.why


def test_a_stop_ends_the_wait_for_a_dependency() -> None:
    harness = waiting_for_health()
    harness.stop("d")
    harness.finish_all()
    assert harness.event_kinds("d")[-1] == "StartFailed"
    assert not harness.engine.containers_of("d")
    set_health(harness, "healthy")
    assert not harness.engine.containers_of("d")


def test_a_start_that_waits_follows_a_change_of_its_dependencies() -> None:
    harness = waiting_for_health()
    harness.reader.services["d"] = service("d")
    harness.driver.manage(harness.driver.load())
    harness.follow(harness.reader.services["d"])
    harness.finish_all()
    assert harness.event_kinds("d")[-2:] == ["Started", "Ready"]


def test_a_start_that_waits_ends_with_its_instance() -> None:
    harness = waiting_for_health()
    harness.driver.forget(harness.spec(harness.reader.services["d"]))
    set_health(harness, "healthy")
    assert not harness.engine.running("d")


@pytest.mark.parametrize(("code", "kinds"), [(0, ["Started", "Ready"]), (1, ["StartFailed"])])
def test_a_start_waits_until_a_dependency_has_completed(code: int, kinds: list[str]) -> None:
    dependency = ServiceDependency("init", Condition.COMPLETED)
    harness = DriverHarness(service("d", dependencies=(dependency,)), service("init"))
    harness.launch("d")
    harness.finish_all()
    assert harness.event_kinds("d") == ["StartDelayed"]
    harness.engine.end(harness.engine.running("init")[0], code)
    harness.settle()
    assert harness.event_kinds("d")[-len(kinds) :] == kinds


def test_a_dependency_that_must_be_down_is_removed_after_its_start() -> None:
    harness = DriverHarness(service("a", depends_on=("b",)), service("b"))
    harness.launch("a")
    harness.settle()
    harness.compose.proceed()  # made the containers of both
    harness.settle()
    harness.driver.stop(RunKey("b", 1), signal.SIGKILL, whole_tree=True)  # left over, in the core's eyes
    harness.finish_all()
    assert harness.compose.log == ["up b a", "rm b"]
    assert harness.event_kinds("a")[-2:] == ["Started", "Ready"]
    assert harness.event_kinds("b")[-2:] == ["Exited", "Gone"]


def test_the_failure_of_a_dependency_fails_the_start() -> None:
    harness = DriverHarness(service("a", depends_on=("b",)), service("b"))
    harness.actions.unstartable.add("b")
    harness.launch("a")
    harness.finish_all()
    failed = harness.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "dependency 'b': cannot start b" in failed.why
    assert not harness.engine.running("a")


def test_a_service_restarts_with_the_service_that_it_builds_upon() -> None:
    user = service("u", dependencies=(ServiceDependency("x", restart=True),))
    harness = DriverHarness(user, service("other", depends_on=("x",)), service("x"))
    harness.up("u", "other", "x")
    (container,) = harness.engine.containers_of("x")
    harness.engine.end(container, 137)
    harness.settle()
    assert harness.event_kinds("u") == []
    harness.launch("x")
    harness.finish_all()
    outdated = harness.event("u", Outdated)
    assert isinstance(outdated, Outdated)
    assert outdated.why == "x has started again: restarting u with it"
    assert harness.event_kinds("other") == []


def test_a_new_daemon_restarts_no_service_that_it_finds_running() -> None:
    user = service("u", dependencies=(ServiceDependency("x", restart=True),))
    harness = DriverHarness(user, service("x"), present=False)
    harness.engine.run(harness.engine.create(user, 1))
    harness.settle()
    harness.engine.run(harness.engine.create(harness.reader.services["x"], 1))
    harness.engine.come_back()
    harness.settle()
    assert harness.event_kinds("u")[-1] == "Appeared"
