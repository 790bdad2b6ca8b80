"""Tests of the compose driver's events, on an engine in memory."""

from __future__ import annotations

import math
import signal
from dataclasses import replace

from hostmanager_server.core.catalog import Catalog
from hostmanager_server.core.compose import UNKNOWN_IMAGE, ServiceStatus
from hostmanager_server.core.events import (
    Appeared,
    Degraded,
    Exited,
    ExitStatus,
    Renewed,
    RunKey,
    ServiceObserved,
    StartFailed,
    StopFailed,
    Unobservable,
)
from hostmanager_server.core.model import NOT_YET_OBSERVED
from hostmanager_server.core.spec import ServiceContents, ServiceSpec
from hostmanager_server.drivers.compose.followed_service import FollowedService

from tests.drivers.compose.driver_harness import DriverHarness, services
from tests.drivers.compose.fake_compose import AWAY, service
from tests.fakes.driver import FakePoller

# --- observations


def test_a_service_that_runs_already_appears() -> None:
    harness = DriverHarness(*services("a"))
    harness.driver.forget(harness.spec(service("a")))
    harness.engine.run(harness.engine.create(service("a"), 1))
    harness.settle()
    harness.events.clear()
    harness.follow(service("a"))
    assert harness.event_kinds("a") == ["Appeared"]
    observed = harness.event("a", ServiceObserved)
    assert isinstance(observed, ServiceObserved)
    assert observed.status.running
    assert not observed.status.outdated
    harness.poller.advance(60.0)
    assert harness.compose.log == []


def test_a_run_that_ends_before_its_inspection_is_reported_as_started_and_exited() -> None:
    harness = DriverHarness(*services("a"))
    harness.actions.exit_codes["a"] = 3
    harness.launch("a")
    harness.finish_all()
    assert harness.event_kinds("a")[0] == "Started"
    assert harness.event_kinds("a")[-2:] == ["Exited", "Gone"]
    exited = harness.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=3)


def test_a_container_started_by_hand_appears_as_a_new_run() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    container = harness.engine.containers_of("a")[0]
    harness.engine.end(container, 0)
    harness.settle()
    harness.engine.run(harness.engine.containers_of("a")[0])
    harness.settle()
    assert harness.event_kinds("a") == ["Exited", "Gone", "Appeared"]
    appeared = harness.event("a", Appeared)
    assert isinstance(appeared, Appeared)
    assert appeared.run.number == 2


def test_only_the_missing_replica_is_started() -> None:
    harness = DriverHarness(service("a", replicas=3))
    harness.up("a")
    victim = harness.engine.running("a")[1]
    harness.engine.end(victim, 9)
    harness.settle()
    degraded = harness.event("a", Degraded)
    assert isinstance(degraded, Degraded)
    assert degraded.status == ExitStatus(code=9)
    assert "2 of 3" in degraded.why
    harness.launch_missing("a")
    harness.finish_all()
    assert harness.compose.log == []  # the engine starts the container that exists
    assert harness.actions.log == ["start a"]
    assert harness.event_kinds("a") == ["Degraded", "Ready"]
    assert len(harness.engine.running("a")) == 3


def test_an_unstartable_container_is_replaced() -> None:
    harness = DriverHarness(*services("ab"))
    for each in harness.reader.services.values():
        harness.engine.create(each, 1)
    harness.engine.leave_unstartable(harness.engine.containers_of("a")[0])
    (b,) = harness.engine.containers_of("b")
    harness.settle()
    harness.launch("a", "b")
    harness.finish_all()
    assert (harness.compose.log, harness.actions.log.count("remove a")) == (["up a"], 1)
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["Started", "Ready"]
    assert [each.id for each in harness.engine.containers_of("b")] == [b.id]


def test_an_unstartable_replica_is_replaced_and_the_others_run_on() -> None:
    harness = DriverHarness(service("a", replicas=3))
    harness.up("a")
    victim, *others = harness.engine.running("a")
    harness.engine.end(victim, 9)
    harness.engine.leave_unstartable(harness.engine.containers[victim.id])
    harness.settle()
    harness.launch_missing("a")
    harness.finish_all()
    assert (harness.compose.log, harness.actions.log) == (["up a"], ["remove a", "start a"])
    assert harness.event_kinds("a") == ["Degraded", "Ready"]
    assert {each.id for each in others} < {each.id for each in harness.engine.running("a")}


def test_an_unstartable_dependency_is_replaced() -> None:
    harness = DriverHarness(service("a", depends_on=("b",)), service("b", depends_on=("c",)), *services("cd"))
    for name in "cd":
        harness.engine.leave_unstartable(harness.engine.create(harness.reader.services[name], 1))
    harness.settle()
    harness.launch("a")
    harness.finish_all()
    assert harness.actions.log == ["remove c", "start c", "start b", "start a"]  # d is no dependency of a


def test_a_paused_replica_stays_beside_an_unstartable_one() -> None:
    harness = DriverHarness(service("a", replicas=2))
    harness.up("a")
    victim, paused = harness.engine.running("a")
    harness.engine.put(replace(paused, status="paused"))
    harness.engine.end(victim, 9)
    harness.engine.leave_unstartable(harness.engine.containers[victim.id])
    harness.settle()
    harness.launch_missing("a")
    harness.finish_all()
    assert harness.actions.log == ["remove a", "start a"]
    assert paused.id in harness.engine.containers


def test_a_start_recreates_no_dependency() -> None:
    harness = DriverHarness(service("a", depends_on=("db",)), service("db"))
    harness.up("a")
    before = set(harness.engine.containers)
    harness.reader.services["db"] = service("db", config_hash="other")
    harness.driver.manage(harness.driver.load())
    for name in ("a", "db"):
        harness.engine.end(harness.engine.containers_of(name)[0], 137)
    harness.settle()
    harness.launch("a")
    harness.finish_all()
    assert set(harness.engine.containers) == before
    assert harness.engine.running("db")


def test_a_new_container_is_made_once_where_the_old_one_cannot_start() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    (old,) = harness.engine.containers_of("a")
    harness.engine.end(old, 137)
    harness.actions.broken.add(old.id)  # its network was pruned
    harness.settle()
    harness.events.clear()
    harness.launch("a")
    harness.finish_all()
    renewed = harness.event("a", Renewed)
    assert isinstance(renewed, Renewed)
    assert "making a new container" in renewed.why
    assert harness.event_kinds("a") == ["Renewed", "Started", "Ready"]
    assert [each.id for each in harness.engine.containers_of("a")] != [old.id]


def test_no_new_container_is_made_where_new_ones_fail_in_the_same_way() -> None:
    harness = DriverHarness(*services("a"))
    harness.actions.unstartable.add("a")
    for _ in range(3):
        harness.launch("a")
        harness.finish_all()
    assert harness.event_kinds("a") == ["StartFailed"] * 3
    assert harness.compose.log == ["up a"]
    harness.reader.services["a"] = service("a", config_hash="corrected")
    harness.driver.manage(harness.driver.load())
    harness.follow(harness.reader.services["a"])
    harness.actions.unstartable.clear()
    harness.launch("a")
    harness.finish_all()
    assert harness.event_kinds("a")[3:] == ["Started", "Ready"]


def test_containers_that_do_not_run_are_removed_by_a_stop() -> None:
    harness = DriverHarness(*services("a"))
    harness.engine.create(service("a"), 1)
    harness.settle()
    harness.driver.stop(RunKey("a", 1), signal.SIGKILL, whole_tree=True)
    harness.finish_all()
    assert (harness.compose.log, harness.engine.containers_of("a")) == (["rm a"], [])
    assert harness.event_kinds("a") == ["Cleared"]


def test_a_removal_of_containers_that_are_gone_already_ends_at_once() -> None:
    harness = DriverHarness(*services("a"))
    harness.driver.stop(RunKey("a", 1), signal.SIGKILL, whole_tree=True)
    assert (harness.event_kinds("a"), harness.compose.log) == (["Cleared"], [])


def test_a_container_that_compose_leaves_is_a_failed_stop() -> None:
    harness = DriverHarness(*services("a"))
    harness.engine.create(service("a"), 1)
    harness.settle()
    harness.driver.stop(RunKey("a", 1), signal.SIGKILL, whole_tree=True)
    harness.settle()
    (call,) = harness.compose.running_calls
    call.done("")  # the engine is still removing the container
    harness.settle()
    assert harness.event_kinds("a") == ["StopFailed"]


def test_a_failed_removal_is_reported_and_can_be_repeated() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.stop("a")
    harness.settle()
    assert harness.compose.current_call is not None
    harness.compose.current_call.interrupt()  # stands for any failure
    harness.finish_all()
    failed = harness.event("a", StopFailed)
    assert isinstance(failed, StopFailed)
    assert "interrupted" in failed.why
    harness.stop("a")
    harness.finish_all()
    assert harness.event_kinds("a") == ["StopFailed", "Exited", "Gone"]


def test_a_moved_tag_makes_the_running_container_outdated() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.driver.images_changed({"agent:1": "sha256:2"})
    observed = harness.event("a", ServiceObserved)
    assert isinstance(observed, ServiceObserved)
    assert (observed.status.image_id, observed.status.outdated) == ("sha256:2", True)
    harness.driver.images_changed({"agent:1": UNKNOWN_IMAGE})
    assert dict(harness.surveys[-1].new_tags) == {"a": "agent:1"}


# --- an engine that disappears


def test_a_launch_fails_while_the_engine_is_away() -> None:
    harness = DriverHarness(*services("a"), present=False)
    assert harness.event_kinds("a") == ["Unobservable", "Unobservable"]  # not connected yet, then no engine
    harness.events.clear()
    harness.launch("a")
    failed = harness.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert AWAY in failed.why
    harness.settle()
    assert harness.compose.log == []


def test_the_outcome_of_a_call_is_read_when_the_engine_is_back() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.compose.proceed(1)
    harness.engine.leave()
    harness.finish()
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["Unobservable"]
    harness.engine.come_back()
    harness.finish_all()
    assert harness.event_kinds("a") == ["Unobservable", "Started", "Ready"]
    assert harness.event_kinds("b")[:2] == ["Unobservable", "StartFailed"]  # compose could not connect
    assert harness.compose.log == ["up a b"]
    assert len(harness.engine.running("a")) == 1


def test_an_end_during_the_engine_absence_has_its_exit_code() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a", "b")
    harness.engine.leave()
    harness.settle()
    harness.engine.end(harness.engine.containers_of("a")[0], 5)
    harness.settle()
    assert harness.event_kinds("a") == ["Unobservable"]
    harness.engine.come_back()
    harness.settle()
    assert harness.event_kinds("a") == ["Unobservable", "Exited", "Gone"]
    assert harness.event_kinds("b") == ["Unobservable"]
    exited = harness.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=5)


def test_a_container_replaced_while_the_engine_was_away_continues_the_run() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.engine.leave()
    harness.settle()
    harness.engine.remove(harness.engine.containers_of("a")[0])
    harness.engine.run(harness.engine.create(service("a"), 1))
    harness.engine.come_back()
    harness.settle()
    assert harness.event_kinds("a") == ["Unobservable"]
    observed = [e for e in harness.events if isinstance(e, ServiceObserved)][-1]
    assert observed.status.container_id == harness.engine.containers_of("a")[0].id


# --- services that come and go


def test_following_an_instance_again_posts_all_facts_again() -> None:
    harness = DriverHarness(*services("a"))  # a reset instance has no facts
    harness.follow(service("a"))
    assert isinstance(harness.event("a", ServiceObserved), ServiceObserved)
    harness.up("a")
    claimed = replace(harness.spec(service("a")), agent_class="Agent")  # by the site config, as it runs
    harness.driver.follow(claimed)
    assert isinstance(harness.event("a", ServiceObserved), ServiceObserved)
    assert harness.event_kinds("a") == ["Appeared"]


def test_an_instance_with_another_service_gets_a_new_run() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a", "b")
    other = replace(harness.spec(service("b")), instance_id="a")
    harness.driver.follow(other)
    assert harness.event_kinds("a") == ["Appeared"]
    observed = harness.event("a", ServiceObserved)
    assert isinstance(observed, ServiceObserved)
    assert observed.status.container_id == harness.engine.containers_of("b")[0].id


def test_a_service_that_leaves_its_file_is_an_orphan() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a", "b")
    del harness.reader.services["a"]
    harness.driver.manage(harness.driver.load())
    harness.driver.follow(replace(harness.spec(service("a")), service=None, problem="no service"))
    (orphan,) = harness.surveys[-1].orphans.values()
    assert orphan.container_id == harness.engine.containers_of("a")[0].id
    assert harness.driver.is_orphan(orphan.container_id)
    assert harness.event_kinds("a") == []
    harness.driver.launch(
        RunKey("a", 2), replace(harness.spec(service("a")), service=None, problem="no service")
    )
    failed = harness.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "no service" in failed.why


def test_a_service_of_a_new_project_is_unknown_until_its_containers_are_listed() -> None:
    harness = DriverHarness(*services("a"))
    moved = replace(service("b"), project="other")
    harness.engine.run(harness.engine.create(moved, 1))
    harness.settle()
    harness.follow(moved)
    unknown = harness.event("b", Unobservable)
    assert isinstance(unknown, Unobservable)
    assert unknown.why == NOT_YET_OBSERVED
    assert harness.event_kinds("a") == []
    harness.driver.launch(RunKey("b", 1), harness.spec(moved))
    assert harness.event_kinds("b") == ["Unobservable", "StartFailed"]
    harness.settle()
    assert harness.event_kinds("b")[-1] == "Appeared"
    assert harness.compose.log == []


def test_a_running_service_is_observed_after_its_project_left_the_catalog() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.driver.manage(Catalog())
    harness.settle()
    harness.engine.end(harness.engine.containers_of("a")[0], 3)
    harness.settle()
    assert "Exited" in harness.event_kinds("a")
    harness.driver.forget(harness.spec(service("a")))
    assert harness.engine.watched_projects == frozenset()


def test_a_stopped_container_with_an_old_image_is_recreated() -> None:
    harness = DriverHarness(service("a"))
    harness.up("a")
    (container,) = harness.engine.containers_of("a")
    harness.engine.end(container, 1)
    harness.engine.put(replace(harness.engine.containers_of("a")[0], image="sha256:old"))
    harness.settle()
    harness.launch("a")
    harness.finish_all()
    assert [each.id for each in harness.engine.containers_of("a")] != [container.id]


def test_a_container_that_the_engine_is_about_to_restart_is_removed() -> None:
    harness = DriverHarness(service("a"))
    harness.up("a")
    (container,) = harness.engine.containers_of("a")
    harness.engine.end(container, 1)
    harness.engine.put(replace(harness.engine.containers_of("a")[0], status="restarting"))
    harness.settle()
    harness.events.clear()
    run = RunKey("a", 7)  # the core chose the number, because no container runs
    harness.driver.stop(run, signal.SIGKILL, whole_tree=True)
    harness.settle()
    harness.finish_all()
    assert harness.engine.containers_of("a") == []
    event_kinds = [type(event).__name__ for event in harness.events if not isinstance(event, ServiceObserved)]
    assert event_kinds == ["Exited", "Gone"]


# --- changes that no hash of compose shows


def latest_status(harness: DriverHarness) -> ServiceStatus:
    return [event.status for event in harness.events if isinstance(event, ServiceObserved)][-1]


def test_more_containers_than_wanted_need_a_restart() -> None:
    harness = DriverHarness(service("a", replicas=3))
    harness.up("a")
    harness.follow(service("a", replicas=1))
    assert latest_status(harness).outdated
    harness.follow(service("a", replicas=0))
    assert latest_status(harness).outdated
    assert harness.event_kinds("a") == []


def test_the_stop_time_of_a_container_counts_besides_that_of_the_file() -> None:
    followed = FollowedService(
        DriverHarness().spec(service("a", stop_grace=20.0)), print, FakePoller().now, lambda _, __: print
    )
    assert followed.stop_grace == 20.0
    harness = DriverHarness(*services("a"))
    container = harness.engine.create(service("a"), 1)
    for timeout, longest in ((None, 20.0), (5.0, 20.0), (400.0, 400.0), (-1.0, math.inf)):
        followed.update([replace(container, stop_timeout=timeout)], "sha256:1")
        assert followed.stop_grace == longest


def test_a_changed_file_needs_a_restart_unless_the_container_started_later() -> None:
    def with_file(digest: str, changed: float) -> ServiceSpec:
        return service("a", contents=ServiceContents(digest, changed))

    harness = DriverHarness(with_file("one", 1.0))
    harness.up("a")
    harness.follow(with_file("one", 1.0))
    assert not latest_status(harness).outdated
    later = harness.poller.now().wall + 5.0
    for digest, outdated in (("two", True), ("one", False)):  # changed, and changed back
        harness.follow(with_file(digest, later))
        assert latest_status(harness).outdated is outdated
    harness.follow(with_file("two", later))
    harness.poller.advance(10.0)
    harness.engine.end(harness.engine.running("a")[0], 1)
    harness.settle()
    harness.engine.run(harness.engine.containers_of("a")[0])
    harness.settle()
    assert not latest_status(harness).outdated  # started after the change


def test_a_file_changed_while_no_daemon_ran_needs_a_restart() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    changed = harness.poller.now().wall + 5.0
    harness.driver.forget(harness.spec(service("a")))
    harness.follow(service("a", contents=ServiceContents("two", changed)))
    assert latest_status(harness).outdated


def test_other_inline_contents_need_another_container() -> None:
    harness = DriverHarness(service("a", contents=ServiceContents(inline="one")))
    harness.up("a")
    harness.follow(service("a", contents=ServiceContents(inline="two")))
    assert latest_status(harness).outdated


def test_an_end_for_lack_of_memory_is_posted() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    (container,) = harness.engine.running("a")
    harness.engine.put(replace(container, running=False, exit_code=137, finished=1.0, oom_killed=True))
    harness.settle()
    exited = harness.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=137, out_of_memory=True)


def test_the_worst_health_of_all_containers_is_shown() -> None:
    harness = DriverHarness(service("a", replicas=2))
    harness.up("a")
    healthy, other = harness.engine.running("a")
    harness.engine.put(replace(healthy, health="healthy"))
    for health, sick in (("starting", 0), ("unhealthy", 1), ("healthy", 0)):
        harness.engine.put(replace(other, health=health))
        harness.settle()
        status = latest_status(harness)
        assert (status.health, status.unhealthy_replicas) == (health, sick)
