"""Tests of the compose driver on an engine in memory: its calls of compose and its events."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.compose import UNKNOWN_IMAGE, Survey
from hostmanager_server.core.events import (
    Appeared,
    Degraded,
    DriverEvent,
    Exited,
    ExitStatus,
    Ready,
    RunKey,
    ServiceObserved,
    StartFailed,
    StopFailed,
)
from hostmanager_server.core.spec import InstanceSpec, Management, ServiceSpec
from hostmanager_server.drivers.compose.driver import ComposeDriver

from tests.drivers.compose.fake_compose import AWAY, FakeCompose, FakeEngine, FakeReader, service
from tests.fakes.driver import FakePoller


class DriverHarness:
    """A driver that follows these services, with its events, surveys and calls of compose."""

    def __init__(self, *services: ServiceSpec, present: bool = True) -> None:
        self.poller = FakePoller()
        self.engine = FakeEngine(self.poller, present=present)
        self.reader = FakeReader(*services)
        self.compose = FakeCompose(self.engine, self.reader)
        self.events: list[DriverEvent] = []
        self.surveys: list[Survey] = []
        self.driver = ComposeDriver(
            self.poller, self.events.append, self._forbid_threads, self, self.reader, self.engine.make_watch,
            self.compose,
        )  # fmt: skip
        self._runs: dict[str, int] = {}
        self.driver.manage(self.driver.load())
        for each in services:
            self.follow(each)
        self.settle()
        if present:
            self.events.clear()

    def _forbid_threads(self, callback: object) -> None:
        raise AssertionError("nothing here is on a thread of its own")

    def surveyed(self, survey: Survey) -> None:
        self.surveys.append(survey)

    def files_changed(self) -> None:
        raise AssertionError("no file is watched here")

    def spec(self, wanted: ServiceSpec) -> InstanceSpec:
        return InstanceSpec(wanted.service, UNCLAIMED, Management.DOCKER, service=wanted)

    def follow(self, wanted: ServiceSpec) -> None:
        self.driver.follow(self.spec(wanted))

    def launch(self, *names: str) -> None:
        for name in names:
            self._runs[name] = self._runs.get(name, 0) + 1
            self.driver.launch(self.run_of(name), self.spec(self.reader.services[name]))

    def launch_missing(self, name: str) -> None:
        self.driver.launch(self.run_of(name), self.spec(self.reader.services[name]))

    def stop(self, *names: str) -> None:
        for name in names:
            self.driver.stop(self.run_of(name), signal.SIGKILL, whole_tree=True)

    def run_of(self, name: str) -> RunKey:
        return RunKey(name, self._runs[name])

    def settle(self) -> None:
        """Advance the clock until the driver has processed all notifications.

        The driver may then have begun its next call of compose.
        """
        self.poller.advance(1.0)

    def finish(self) -> None:
        self.settle()
        self.compose.finish()
        self.settle()

    def finish_all(self) -> None:
        self.settle()
        while self.compose.current_call is not None:
            self.finish()

    def up(self, *names: str) -> None:
        """Start these services, and forget the events and calls of the start."""
        self.launch(*names)
        self.finish_all()
        self.events.clear()
        self.compose.log.clear()

    def event_kinds(self, name: str) -> list[str]:
        """Return the class names of an instance's events, without ServiceObserved."""
        mine = [e for e in self.events if e.instance_id == name and not isinstance(e, ServiceObserved)]
        return [type(event).__name__ for event in mine]

    def event(self, name: str, kind: type[DriverEvent]) -> DriverEvent:
        """Return the only event of this kind of the instance."""
        (only,) = [e for e in self.events if e.instance_id == name and isinstance(e, kind)]
        return only


def services(names: Sequence[str]) -> list[ServiceSpec]:
    return [service(name) for name in names]


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
    harness.compose.exit_codes["a"] = 3
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
    harness.settle()
    assert harness.compose.current_call is not None
    assert "--no-recreate" in harness.compose.current_call.options
    harness.finish_all()
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
    assert harness.compose.log == ["rm a", "up a b"]
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
    assert harness.compose.log == ["rm a", "up a"]
    assert harness.event_kinds("a") == ["Degraded", "Ready"]
    assert {each.id for each in others} < {each.id for each in harness.engine.running("a")}


def test_an_unstartable_dependency_is_replaced() -> None:
    harness = DriverHarness(service("a", depends_on=("b",)), service("b", depends_on=("c",)), *services("cd"))
    for name in "cd":
        harness.engine.leave_unstartable(harness.engine.create(harness.reader.services[name], 1))
    harness.settle()
    harness.launch("a")
    harness.finish_all()
    assert harness.compose.log == ["rm c", "up a"]  # d is no dependency of a


def test_no_container_is_removed_beside_a_paused_replica() -> None:
    harness = DriverHarness(service("a", replicas=2))
    harness.up("a")
    victim, paused = harness.engine.running("a")
    harness.engine.put(replace(paused, status="paused"))
    harness.engine.end(victim, 9)
    harness.engine.leave_unstartable(harness.engine.containers[victim.id])
    harness.settle()
    harness.launch_missing("a")
    harness.finish_all()
    assert not any(line.startswith("rm") for line in harness.compose.log)


def test_a_withdrawn_start_removes_no_container() -> None:
    harness = DriverHarness(*services("a"))
    harness.engine.leave_unstartable(harness.engine.create(harness.reader.services["a"], 1))
    harness.settle()
    harness.launch("a")
    harness.stop("a")
    harness.finish_all()
    assert harness.compose.log == []
    assert harness.event_kinds("a") == ["StartFailed"]


@pytest.mark.parametrize("db_runs", [False, True])
def test_a_start_recreates_no_dependency(*, db_runs: bool) -> None:
    harness = DriverHarness(service("a", depends_on=("db",)), service("db"))
    if db_runs:
        harness.up("db")
    harness.launch("a")
    harness.settle()
    assert harness.compose.current_call is not None
    assert harness.compose.current_call.options == ["--detach", "--no-recreate"]


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
    assert harness.event_kinds("a") == ["Started", "Ready", "Unobservable"]
    assert harness.event_kinds("b") == ["Unobservable"]
    harness.engine.come_back()
    harness.finish_all()
    assert harness.event_kinds("a") == ["Started", "Ready", "Unobservable"]
    assert harness.event_kinds("b") == ["Unobservable", "Started", "Ready"]  # retried in a separate call
    assert harness.compose.log == ["up a b", "up b"]
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


def test_a_stopped_container_with_an_old_image_is_recreated() -> None:
    harness = DriverHarness(service("a"))
    harness.up("a")
    (container,) = harness.engine.containers_of("a")
    harness.engine.end(container, 1)
    harness.engine.put(replace(harness.engine.containers_of("a")[0], image="sha256:old"))
    harness.settle()
    harness.launch("a")
    harness.settle()
    assert harness.compose.current_call is not None
    assert harness.compose.current_call.options == ["--detach"]


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
