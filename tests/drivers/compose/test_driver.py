"""Tests of the compose driver's calls of compose, on an engine in memory."""

from __future__ import annotations

from hostmanager_server.core.events import (
    Ready,
    StartFailed,
)

from tests.drivers.compose.driver_harness import DriverHarness, services
from tests.drivers.compose.fake_compose import service

# --- batches


def test_simultaneous_requests_share_one_call_of_compose() -> None:
    harness = DriverHarness(*services("abc"))
    harness.launch("a", "b", "c")
    harness.finish_all()
    assert harness.compose.log == ["up a b c"]
    for name in "abc":
        assert harness.event_kinds(name) == ["Started", "Ready"]
    harness.stop("a", "c")
    harness.finish_all()
    assert harness.compose.log[1:] == ["rm a c"]
    assert harness.event_kinds("a")[2:] == harness.event_kinds("c")[2:] == ["Exited", "Gone"]
    assert harness.event_kinds("b")[2:] == []


def test_a_failed_call_is_split_until_the_failing_service_is_found() -> None:
    harness = DriverHarness(*services("abc"), service("bad", image="no-such:1"), *services("ef"))
    harness.launch("a", "b", "c", "bad", "e", "f")
    harness.finish_all()
    assert harness.compose.log == [
        "up a b c bad e f",
        "up a b c", "up bad e f",
        "up bad", "up e f",
    ]  # fmt: skip
    for name in "abcef":
        assert harness.event_kinds(name) == ["Started", "Ready"]
    failed = harness.event("bad", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "no such image for bad; image 'no-such:1' does not exist" in failed.why


def test_only_the_service_that_cannot_start_fails() -> None:
    harness = DriverHarness(*services("abc"))
    harness.compose.unstartable.add("b")
    harness.launch("a", "b", "c")
    harness.finish_all()
    assert harness.compose.log == ["up a b c", "up b"]  # the others run already
    assert harness.event_kinds("a") == harness.event_kinds("c") == ["Started", "Ready"]
    assert harness.event_kinds("b") == ["StartFailed"]


def test_removals_come_before_starts() -> None:
    harness = DriverHarness(*services("abc"))
    harness.up("a")
    harness.launch("b")
    harness.settle()
    harness.launch("c")
    harness.stop("a")
    harness.finish_all()
    assert harness.compose.log == ["up b", "rm a", "up c"]


# --- stops during starts


def test_a_stop_withdraws_a_start_that_was_not_begun() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a")
    harness.settle()
    harness.launch("b")
    harness.stop("b")
    assert harness.event_kinds("b") == ["StartFailed"]
    harness.finish_all()
    assert harness.compose.log == ["up a"]


def test_a_call_is_interrupted_when_all_its_services_must_stop() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    assert harness.compose.current_call is not None
    interrupts = harness.compose.current_call.interrupts
    harness.stop("a")
    assert interrupts == []
    harness.stop("b")
    assert interrupts == [True]
    harness.finish_all()
    assert harness.compose.log == ["up a b"]  # no container exists, so no removal is needed
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["StartFailed"]
    assert not harness.engine.containers


def test_a_service_that_started_before_the_interrupt_is_removed() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.compose.proceed(1)
    harness.settle()
    assert harness.event_kinds("a") == ["Started", "Ready"]
    harness.stop("a", "b")
    harness.finish_all()
    assert harness.event_kinds("a")[2:] == ["Exited", "Gone"]
    assert harness.event_kinds("b") == ["StartFailed"]
    assert not harness.engine.containers


def test_a_repeated_stop_is_one_call_of_compose() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.stop("a")
    harness.settle()
    harness.stop("a")
    harness.finish_all()
    assert harness.compose.log == ["rm a"]
    assert harness.event_kinds("a") == ["Exited", "Gone"]


def test_a_launch_beside_a_live_run_fails() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.launch("a")
    assert harness.event_kinds("a") == ["StartFailed"]
    harness.settle()
    assert harness.compose.log == []


# --- outcomes of earlier runs


def test_the_end_of_a_call_does_not_conclude_a_later_run() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.compose.proceed(1)
    harness.settle()
    harness.engine.end(harness.engine.containers_of("a")[0], 3)
    harness.settle()
    assert harness.event_kinds("a") == ["Started", "Ready", "Exited", "Gone"]
    harness.launch("a")  # during the call that started the service
    harness.compose.unstartable.add("a")
    harness.finish()
    assert harness.event_kinds("a")[4:] == []
    harness.compose.unstartable.clear()
    harness.finish_all()
    assert harness.event_kinds("a")[4:] == ["Started", "Ready"]
    newest = [e for e in harness.events if isinstance(e, Ready) and e.instance_id == "a"][-1]
    assert newest.run.number == 2


def test_a_forgotten_instance_gets_no_events() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.driver.forget(harness.spec(service("a")))
    harness.events.clear()
    harness.finish_all()
    assert harness.event_kinds("a") == []
    assert harness.event_kinds("b") == ["Started", "Ready"]
    assert harness.engine.running("a")


def test_no_events_follow_disown() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a")
    harness.launch("b")
    harness.settle()
    harness.driver.disown()
    harness.compose.finish()
    harness.engine.end(harness.engine.containers_of("a")[0], 1)
    harness.settle()
    assert harness.event_kinds("a") == harness.event_kinds("b") == []
