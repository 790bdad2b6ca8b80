"""The driver of compose services on an engine in memory: what it asks of compose, what it tells of it."""

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
    """A driver with these services, all followed; and those who are event_kinds."""

    def __init__(self, *services: ServiceSpec, present: bool = True) -> None:
        self.poller = FakePoller()
        self.engine = FakeEngine(self.poller, present=present)
        self.reader = FakeReader(*services)
        self.compose = FakeCompose(self.engine, self.reader)
        self.events: list[DriverEvent] = []
        self.surveys: list[Survey] = []
        self.driver = ComposeDriver(
            self.poller, self.events.append, self._soon, self, self.reader, self.engine.watched_by,
            self.compose,
        )  # fmt: skip
        self._runs: dict[str, int] = {}
        self.driver.manage(self.driver.load())
        for each in services:
            self.follow(each)
        self.settle()
        if present:
            self.events.clear()

    def _soon(self, callback: object) -> None:
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

    def mend(self, name: str) -> None:
        self.driver.launch(self.run_of(name), self.spec(self.reader.services[name]))

    def stop(self, *names: str) -> None:
        for name in names:
            self.driver.stop(self.run_of(name), signal.SIGKILL, whole_tree=True)

    def run_of(self, name: str) -> RunKey:
        return RunKey(name, self._runs[name])

    def settle(self) -> None:
        """Let the driver draw its conclusions, up to the next call of compose."""
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
        """Have these run, and forget how that came about."""
        self.launch(*names)
        self.finish_all()
        self.events.clear()
        self.compose.log.clear()

    def event_kinds(self, name: str) -> list[str]:
        """The kinds of events of an instance, without what is seen of it; those of its newest run only."""
        mine = [e for e in self.events if e.instance_id == name and not isinstance(e, ServiceObserved)]
        return [type(event).__name__ for event in mine]

    def event(self, name: str, kind: type[DriverEvent]) -> DriverEvent:
        """The only event of this kind of the instance."""
        (only,) = [e for e in self.events if e.instance_id == name and isinstance(e, kind)]
        return only


def services(names: Sequence[str]) -> list[ServiceSpec]:
    return [service(name) for name in names]


# --- batches


def test_what_is_asked_at_once_is_one_call() -> None:
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


def test_a_call_that_fails_is_halved_until_it_is_known_whose_fault_it_was() -> None:
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


def test_one_that_cannot_start_among_some_that_can_is_alone_to_fail() -> None:
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


# --- a change of mind


def test_a_start_that_was_not_begun_is_withdrawn() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a")
    harness.settle()
    harness.launch("b")
    harness.stop("b")
    assert harness.event_kinds("b") == ["StartFailed"]
    harness.finish_all()
    assert harness.compose.log == ["up a"]


def test_a_call_whose_outcome_nobody_wants_any_more_is_interrupted() -> None:
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
    assert harness.compose.log == ["up a b"]  # nothing has come of it that would have to go
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["StartFailed"]
    assert not harness.engine.containers


def test_one_that_started_before_the_call_was_interrupted_is_removed() -> None:
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


def test_a_stop_that_is_asked_twice_is_one_call() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.stop("a")
    harness.settle()
    harness.stop("a")
    harness.finish_all()
    assert harness.compose.log == ["rm a"]
    assert harness.event_kinds("a") == ["Exited", "Gone"]


def test_a_run_that_lives_is_not_started_beside() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.launch("a")
    assert harness.event_kinds("a") == ["StartFailed"]
    harness.settle()
    assert harness.compose.log == []


# --- outcomes of what is over


def test_the_end_of_a_call_says_nothing_of_a_run_that_came_after_it() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.compose.proceed(1)
    harness.settle()
    harness.engine.end(harness.engine.of("a")[0], 3)
    harness.settle()
    assert harness.event_kinds("a") == ["Started", "Ready", "Exited", "Gone"]
    harness.launch("a")  # while the call that had started it goes on
    harness.compose.unstartable.add("a")
    harness.finish()
    assert harness.event_kinds("a")[4:] == []
    harness.compose.unstartable.clear()
    harness.finish_all()
    assert harness.event_kinds("a")[4:] == ["Started", "Ready"]
    newest = [e for e in harness.events if isinstance(e, Ready) and e.instance_id == "a"][-1]
    assert newest.run.number == 2


def test_nothing_is_told_of_an_instance_that_is_forgotten() -> None:
    harness = DriverHarness(*services("ab"))
    harness.launch("a", "b")
    harness.settle()
    harness.driver.forget(harness.spec(service("a")))
    harness.events.clear()
    harness.finish_all()
    assert harness.event_kinds("a") == []
    assert harness.event_kinds("b") == ["Started", "Ready"]
    assert harness.engine.running("a")


def test_nothing_is_told_after_disowning() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a")
    harness.launch("b")
    harness.settle()
    harness.driver.disown()
    harness.compose.finish()
    harness.engine.end(harness.engine.of("a")[0], 1)
    harness.settle()
    assert harness.event_kinds("a") == harness.event_kinds("b") == []


# --- what is seen


def test_what_runs_already_appears() -> None:
    harness = DriverHarness(*services("a"))
    harness.driver.forget(harness.spec(service("a")))
    harness.engine.run(harness.engine.create(service("a"), 1))
    harness.settle()
    harness.events.clear()
    harness.follow(service("a"))
    assert harness.event_kinds("a") == ["Appeared"]
    seen = harness.event("a", ServiceObserved)
    assert isinstance(seen, ServiceObserved)
    assert seen.status.running
    assert not seen.status.outdated
    harness.poller.advance(60.0)
    assert harness.compose.log == []


def test_one_that_ended_before_it_was_seen_to_run_has_started_and_ended() -> None:
    harness = DriverHarness(*services("a"))
    harness.compose.codes["a"] = 3
    harness.launch("a")
    harness.finish_all()
    assert harness.event_kinds("a")[0] == "Started"
    assert harness.event_kinds("a")[-2:] == ["Exited", "Gone"]
    exited = harness.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=3)


def test_a_container_started_by_hand_appears_under_a_number_of_its_own() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    container = harness.engine.of("a")[0]
    harness.engine.end(container, 0)
    harness.settle()
    harness.engine.run(harness.engine.of("a")[0])
    harness.settle()
    assert harness.event_kinds("a") == ["Exited", "Gone", "Appeared"]
    appeared = harness.event("a", Appeared)
    assert isinstance(appeared, Appeared)
    assert appeared.run.number == 2


def test_of_replicas_the_missing_one_is_started_and_the_others_left_alone() -> None:
    harness = DriverHarness(service("a", replicas=3))
    harness.up("a")
    victim = harness.engine.running("a")[1]
    harness.engine.end(victim, 9)
    harness.settle()
    degraded = harness.event("a", Degraded)
    assert isinstance(degraded, Degraded)
    assert degraded.status == ExitStatus(code=9)
    assert "2 of 3" in degraded.why
    harness.mend("a")
    harness.settle()
    assert harness.compose.current_call is not None
    assert "--no-recreate" in harness.compose.current_call.options
    harness.finish_all()
    assert harness.event_kinds("a") == ["Degraded", "Ready"]
    assert len(harness.engine.running("a")) == 3


def test_a_container_that_the_engine_cannot_start_any_more_is_made_anew() -> None:
    harness = DriverHarness(*services("ab"))
    for each in harness.reader.services.values():
        harness.engine.create(each, 1)
    harness.engine.leave_unstartable(harness.engine.of("a")[0])
    (b,) = harness.engine.of("b")
    harness.settle()
    harness.launch("a", "b")
    harness.finish_all()
    assert harness.compose.log == ["rm a", "up a b"]
    assert harness.event_kinds("a") == harness.event_kinds("b") == ["Started", "Ready"]
    assert [each.id for each in harness.engine.of("b")] == [b.id]


def test_a_replica_that_the_engine_cannot_start_any_more_is_made_anew_and_the_others_left_alone() -> None:
    harness = DriverHarness(service("a", replicas=3))
    harness.up("a")
    victim, *others = harness.engine.running("a")
    harness.engine.end(victim, 9)
    harness.engine.leave_unstartable(harness.engine.containers[victim.id])
    harness.settle()
    harness.mend("a")
    harness.finish_all()
    assert harness.compose.log == ["rm a", "up a"]
    assert harness.event_kinds("a") == ["Degraded", "Ready"]
    assert {each.id for each in others} < {each.id for each in harness.engine.running("a")}


def test_what_a_service_depends_on_is_made_anew_when_the_engine_cannot_start_it_any_more() -> None:
    harness = DriverHarness(service("a", depends_on=("b",)), service("b", depends_on=("c",)), *services("cd"))
    for name in "cd":
        harness.engine.leave_unstartable(harness.engine.create(harness.reader.services[name], 1))
    harness.settle()
    harness.launch("a")
    harness.finish_all()
    assert harness.compose.log == ["rm c", "up a"]  # d is none of its business


def test_nothing_is_removed_beside_a_replica_that_is_paused() -> None:
    harness = DriverHarness(service("a", replicas=2))
    harness.up("a")
    victim, paused = harness.engine.running("a")
    harness.engine.put(replace(paused, status="paused"))
    harness.engine.end(victim, 9)
    harness.engine.leave_unstartable(harness.engine.containers[victim.id])
    harness.settle()
    harness.mend("a")
    harness.finish_all()
    assert not any(line.startswith("rm") for line in harness.compose.log)


def test_a_start_that_is_withdrawn_clears_nothing() -> None:
    harness = DriverHarness(*services("a"))
    harness.engine.leave_unstartable(harness.engine.create(harness.reader.services["a"], 1))
    harness.settle()
    harness.launch("a")
    harness.stop("a")
    harness.finish_all()
    assert harness.compose.log == []
    assert harness.event_kinds("a") == ["StartFailed"]


@pytest.mark.parametrize("db_runs", [False, True])
def test_a_start_starts_what_the_service_depends_on_and_makes_nothing_anew(db_runs: bool) -> None:
    harness = DriverHarness(service("a", depends_on=("db",)), service("db"))
    if db_runs:
        harness.up("db")
    harness.launch("a")
    harness.settle()
    assert harness.compose.current_call is not None
    assert harness.compose.current_call.options == ["--detach", "--no-recreate"]


def test_a_removal_that_fails_is_told_and_may_be_asked_for_again() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.stop("a")
    harness.settle()
    assert harness.compose.current_call is not None
    harness.compose.current_call.interrupt()  # which stands for any failure
    harness.finish_all()
    failed = harness.event("a", StopFailed)
    assert isinstance(failed, StopFailed)
    assert "interrupted" in failed.why
    harness.stop("a")
    harness.finish_all()
    assert harness.event_kinds("a") == ["StopFailed", "Exited", "Gone"]


def test_a_tag_that_moves_makes_what_runs_outdated() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.driver.images_changed({"agent:1": "sha256:2"})
    seen = harness.event("a", ServiceObserved)
    assert isinstance(seen, ServiceObserved)
    assert (seen.status.image_id, seen.status.outdated) == ("sha256:2", True)
    harness.driver.images_changed({"agent:1": UNKNOWN_IMAGE})
    assert dict(harness.surveys[-1].new_tags) == {"a": "agent:1"}


# --- an engine that goes away


def test_nothing_is_started_while_the_engine_is_away() -> None:
    harness = DriverHarness(*services("a"), present=False)
    assert harness.event_kinds("a") == ["Unobservable", "Unobservable"]  # not asked yet, then asked in vain
    harness.events.clear()
    harness.launch("a")
    failed = harness.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert AWAY in failed.why
    harness.settle()
    assert harness.compose.log == []


def test_an_engine_that_goes_away_during_a_call_is_asked_when_it_is_back_what_came_of_it() -> None:
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
    assert harness.event_kinds("b") == ["Unobservable", "Started", "Ready"]  # it was tried again, by itself
    assert harness.compose.log == ["up a b", "up b"]
    assert len(harness.engine.running("a")) == 1


def test_what_ended_while_the_engine_was_away_is_told_with_its_code() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a", "b")
    harness.engine.leave()
    harness.settle()
    harness.engine.end(harness.engine.of("a")[0], 5)
    harness.settle()
    assert harness.event_kinds("a") == ["Unobservable"]
    harness.engine.come_back()
    harness.settle()
    assert harness.event_kinds("a") == ["Unobservable", "Exited", "Gone"]
    assert harness.event_kinds("b") == ["Unobservable"]
    exited = harness.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=5)


def test_what_was_made_anew_while_the_engine_was_away_goes_on_as_the_same_run() -> None:
    harness = DriverHarness(*services("a"))
    harness.up("a")
    harness.engine.leave()
    harness.settle()
    harness.engine.remove(harness.engine.of("a")[0])
    harness.engine.run(harness.engine.create(service("a"), 1))
    harness.engine.come_back()
    harness.settle()
    assert harness.event_kinds("a") == ["Unobservable"]
    seen = [e for e in harness.events if isinstance(e, ServiceObserved)][-1]
    assert seen.status.container_id == harness.engine.of("a")[0].id


# --- services that come and go


def test_an_instance_that_is_followed_again_is_told_again_what_there_is() -> None:
    harness = DriverHarness(*services("a"))  # as when it was reset: it is a fresh one, and knows nothing
    harness.follow(service("a"))
    assert isinstance(harness.event("a", ServiceObserved), ServiceObserved)
    harness.up("a")
    claimed = replace(harness.spec(service("a")), agent_class="Agent")  # by the site config, as it runs
    harness.driver.follow(claimed)
    assert isinstance(harness.event("a", ServiceObserved), ServiceObserved)
    assert harness.event_kinds("a") == ["Appeared"]


def test_an_instance_with_another_service_begins_anew() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a", "b")
    other = replace(harness.spec(service("b")), instance_id="a")
    harness.driver.follow(other)
    assert harness.event_kinds("a") == ["Appeared"]
    seen = harness.event("a", ServiceObserved)
    assert isinstance(seen, ServiceObserved)
    assert seen.status.container_id == harness.engine.of("b")[0].id


def test_a_service_that_leaves_its_file_is_an_orphan() -> None:
    harness = DriverHarness(*services("ab"))
    harness.up("a", "b")
    del harness.reader.services["a"]
    harness.driver.manage(harness.driver.load())
    harness.driver.follow(replace(harness.spec(service("a")), service=None, problem="no service"))
    (orphan,) = harness.surveys[-1].orphans.values()
    assert orphan.container_id == harness.engine.of("a")[0].id
    assert harness.driver.is_orphan(orphan.container_id)
    assert harness.event_kinds("a") == []
    harness.driver.launch(
        RunKey("a", 2), replace(harness.spec(service("a")), service=None, problem="no service")
    )
    failed = harness.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "no service" in failed.why


def test_what_has_ended_is_made_anew_when_its_image_is_another_by_now() -> None:
    harness = DriverHarness(service("a"))
    harness.up("a")
    (container,) = harness.engine.of("a")
    harness.engine.end(container, 1)
    harness.engine.put(replace(harness.engine.of("a")[0], image="sha256:old"))
    harness.settle()
    harness.launch("a")
    harness.settle()
    assert harness.compose.current_call is not None
    assert harness.compose.current_call.options == ["--detach"]


def test_what_the_engine_is_about_to_start_again_is_removed() -> None:
    harness = DriverHarness(service("a"))
    harness.up("a")
    (container,) = harness.engine.of("a")
    harness.engine.end(container, 1)
    harness.engine.put(replace(harness.engine.of("a")[0], status="restarting"))
    harness.settle()
    harness.events.clear()
    run = RunKey("a", 7)  # the core's own, as nothing runs
    harness.driver.stop(run, signal.SIGKILL, whole_tree=True)
    harness.settle()
    harness.finish_all()
    assert harness.engine.of("a") == []
    event_kinds = [type(event).__name__ for event in harness.events if not isinstance(event, ServiceObserved)]
    assert event_kinds == ["Exited", "Gone"]
