"""Tests of the compose driver's calls of compose, on an engine in memory."""

from __future__ import annotations

from hostmanager_server.core.events import (
    Ready,
    StartFailed,
)
from hostmanager_server.drivers.compose.cli.creates import PATIENCE

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


def test_a_service_that_takes_long_to_stop_keeps_no_other_service_waiting() -> None:
    """Compose removes no container of a call before all of them have ended."""
    app, slow = service("app", depends_on=("db",)), service("slow", stop_grace=400.0)
    harness = DriverHarness(service("a"), slow, app, service("db", stop_grace=60.0), service("b"))
    harness.up("a", "slow", "app", "db", "b")
    harness.stop("a", "slow", "app", "db", "b")
    harness.settle()
    assert harness.compose.log == ["rm a b", "rm slow", "rm app db"]  # compose ends app before db
    harness.finish()
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["Exited", "Gone"]


def test_a_failed_call_is_split_until_the_failing_service_is_found() -> None:
    harness = DriverHarness(*services("abcdef"))
    harness.compose.unmakeable.add("d")
    harness.launch(*"abcdef")
    harness.finish_all()
    assert harness.compose.log == ["up a b c d e f", "up a b c", "up d e f", "up d e", "up f", "up d", "up e"]
    for name in "abcef":
        assert harness.event_kinds(name) == ["Started", "Ready"]
    failed = harness.event("d", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "invalid mount for d" in failed.why


def test_a_missing_image_delays_only_its_own_service() -> None:
    late = service("late", image="late:1")
    harness = DriverHarness(*services("ab"), service("bad", image="no-such:1"), late)
    harness.actions.pullable["late:1"] = "sha256:2"
    harness.actions.held.add("late:1")
    harness.launch("a", "b", "bad", "late")
    harness.finish_all()
    assert (harness.compose.log, harness.actions.fetches) == (["up a b"], ["no-such:1", "late:1"])
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["Started", "Ready"]
    failed = harness.event("bad", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "pull access denied for no-such:1" in failed.why
    harness.actions.held.clear()
    harness.poller.advance(5.0)
    harness.finish_all()
    assert harness.event_kinds("late") == ["Started", "Ready"]


def test_a_stop_ends_the_pull_of_its_start() -> None:
    harness = DriverHarness(service("a", image="late:1"))
    harness.actions.held.add("late:1")
    harness.launch("a")
    harness.settle()
    harness.stop("a")
    harness.finish_all()
    assert (harness.event_kinds("a"), harness.compose.log) == (["StartFailed"], [])


def test_only_the_service_that_cannot_start_fails() -> None:
    harness = DriverHarness(*services("abc"))
    harness.actions.unstartable.add("b")
    harness.launch("a", "b", "c")
    harness.finish_all()
    assert harness.compose.log == ["up a b c"]
    assert harness.event_kinds("a") == harness.event_kinds("c") == ["Started", "Ready"]
    assert harness.event_kinds("b") == ["StartFailed"]


def test_an_ended_container_starts_again_without_compose() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    (container,) = harness.engine.containers_of("a")
    harness.engine.end(container, 137)
    harness.settle()
    harness.launch("a")
    harness.settle()
    assert harness.compose.log == []
    assert [each.id for each in harness.engine.running("a")] == [container.id]


def test_removals_come_before_starts() -> None:
    harness = DriverHarness(*services("abc"))
    harness.up("a")
    harness.launch("b")
    harness.settle()
    harness.launch("c")
    harness.stop("a")
    harness.finish_all()
    assert harness.compose.log == ["up b", "rm a", "up c"]


def test_a_stop_does_not_wait_for_a_start_that_hangs() -> None:
    harness = DriverHarness(*services("abc"))
    harness.up("a", "c")
    harness.launch("b")
    harness.settle()
    (hanging,) = harness.compose.running_calls
    harness.stop("a")
    harness.settle()
    (stop,) = (call for call in harness.compose.running_calls if call is not hanging)
    harness.stop("c")  # nor for another stop
    harness.settle()
    assert harness.compose.log == ["up b", "rm a", "rm c"]
    harness.compose.finish(stop)
    harness.settle()
    assert harness.event_kinds("a") == ["Exited", "Gone"]


def test_a_restart_does_not_wait_for_a_call_that_hangs() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a")
    harness.launch("b")
    harness.settle()
    harness.stop("a")
    harness.settle()
    harness.compose.finish(harness.compose.running_calls[1])
    harness.settle()
    harness.launch("a")
    harness.poller.advance(PATIENCE)
    assert harness.compose.log == ["up b", "rm a", "up a"]
    harness.compose.finish(harness.compose.running_calls[1])
    harness.settle()
    assert harness.event_kinds("a") == ["Exited", "Gone", "Started", "Ready"]


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


def test_a_stop_interrupts_the_call_of_its_start_and_the_others_are_asked_for_again() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    assert harness.compose.current_call is not None
    harness.stop("a")
    assert harness.compose.current_call.interrupts == [True]
    harness.finish_all()
    assert harness.compose.log == ["up a b", "up b"]  # no container of `a` exists, so no removal is needed
    assert harness.event_kinds("a") == ["StartFailed"]
    assert harness.event_kinds("b") == ["Started", "Ready"]


def test_a_container_that_was_made_before_the_interrupt_is_removed() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.compose.proceed(1)
    harness.settle()
    harness.stop("a", "b")
    harness.finish_all()
    assert harness.compose.log == ["up a b", "rm a"]
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["StartFailed"]
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
    harness.launch("a")
    harness.settle()
    harness.stop("a")
    harness.launch("b")
    harness.finish_all()
    assert harness.event_kinds("a") == ["StartFailed"]
    harness.launch("a")
    harness.finish_all()
    assert harness.event_kinds("a")[1:] == ["Started", "Ready"]
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
