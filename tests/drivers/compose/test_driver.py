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


class Desk:
    """A driver with these services, all followed; and those who are told."""

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
        while self.compose.under_way is not None:
            self.finish()

    def up(self, *names: str) -> None:
        """Have these run, and forget how that came about."""
        self.launch(*names)
        self.finish_all()
        self.events.clear()
        self.compose.log.clear()

    def told(self, name: str) -> list[str]:
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
    desk = Desk(*services("abc"))
    desk.launch("a", "b", "c")
    desk.finish_all()
    assert desk.compose.log == ["up a b c"]
    for name in "abc":
        assert desk.told(name) == ["Started", "Ready"]
    desk.stop("a", "c")
    desk.finish_all()
    assert desk.compose.log[1:] == ["rm a c"]
    assert desk.told("a")[2:] == desk.told("c")[2:] == ["Exited", "Gone"]
    assert desk.told("b")[2:] == []


def test_a_call_that_fails_is_halved_until_it_is_known_whose_fault_it_was() -> None:
    desk = Desk(*services("abc"), service("bad", image="no-such:1"), *services("ef"))
    desk.launch("a", "b", "c", "bad", "e", "f")
    desk.finish_all()
    assert desk.compose.log == [
        "up a b c bad e f",
        "up a b c", "up bad e f",
        "up bad", "up e f",
    ]  # fmt: skip
    for name in "abcef":
        assert desk.told(name) == ["Started", "Ready"]
    failed = desk.event("bad", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "no such image for bad; image 'no-such:1' is not there" in failed.why


def test_one_that_cannot_start_among_some_that_can_is_alone_to_fail() -> None:
    desk = Desk(*services("abc"))
    desk.compose.unstartable.add("b")
    desk.launch("a", "b", "c")
    desk.finish_all()
    assert desk.compose.log == ["up a b c", "up b"]  # the others run already
    assert desk.told("a") == desk.told("c") == ["Started", "Ready"]
    assert desk.told("b") == ["StartFailed"]


def test_removals_come_before_starts() -> None:
    desk = Desk(*services("abc"))
    desk.up("a")
    desk.launch("b")
    desk.settle()
    desk.launch("c")
    desk.stop("a")
    desk.finish_all()
    assert desk.compose.log == ["up b", "rm a", "up c"]


# --- a change of mind


def test_a_start_that_was_not_begun_is_withdrawn() -> None:
    desk = Desk(*services("ab"))
    desk.launch("a")
    desk.settle()
    desk.launch("b")
    desk.stop("b")
    assert desk.told("b") == ["StartFailed"]
    desk.finish_all()
    assert desk.compose.log == ["up a"]


def test_a_call_whose_outcome_nobody_wants_any_more_is_interrupted() -> None:
    desk = Desk(*services("ab"))
    desk.launch("a", "b")
    desk.settle()
    assert desk.compose.under_way is not None
    interrupts = desk.compose.under_way.interrupts
    desk.stop("a")
    assert interrupts == []
    desk.stop("b")
    assert interrupts == [True]
    desk.finish_all()
    assert desk.compose.log == ["up a b"]  # nothing has come of it that would have to go
    assert desk.told("a") == desk.told("b") == ["StartFailed"]
    assert not desk.engine.containers


def test_one_that_started_before_the_call_was_interrupted_is_removed() -> None:
    desk = Desk(*services("ab"))
    desk.launch("a", "b")
    desk.settle()
    desk.compose.proceed(1)
    desk.settle()
    assert desk.told("a") == ["Started", "Ready"]
    desk.stop("a", "b")
    desk.finish_all()
    assert desk.told("a")[2:] == ["Exited", "Gone"]
    assert desk.told("b") == ["StartFailed"]
    assert not desk.engine.containers


def test_a_stop_that_is_asked_twice_is_one_call() -> None:
    desk = Desk(*services("a"))
    desk.up("a")
    desk.stop("a")
    desk.settle()
    desk.stop("a")
    desk.finish_all()
    assert desk.compose.log == ["rm a"]
    assert desk.told("a") == ["Exited", "Gone"]


def test_a_run_that_lives_is_not_started_beside() -> None:
    desk = Desk(*services("a"))
    desk.up("a")
    desk.launch("a")
    assert desk.told("a") == ["StartFailed"]
    desk.settle()
    assert desk.compose.log == []


# --- outcomes of what is over


def test_the_end_of_a_call_says_nothing_of_a_run_that_came_after_it() -> None:
    desk = Desk(*services("ab"))
    desk.launch("a", "b")
    desk.settle()
    desk.compose.proceed(1)
    desk.settle()
    desk.engine.end(desk.engine.of("a")[0], 3)
    desk.settle()
    assert desk.told("a") == ["Started", "Ready", "Exited", "Gone"]
    desk.launch("a")  # while the call that had started it goes on
    desk.compose.unstartable.add("a")
    desk.finish()
    assert desk.told("a")[4:] == []
    desk.compose.unstartable.clear()
    desk.finish_all()
    assert desk.told("a")[4:] == ["Started", "Ready"]
    newest = [e for e in desk.events if isinstance(e, Ready) and e.instance_id == "a"][-1]
    assert newest.run.number == 2


def test_nothing_is_told_of_an_instance_that_is_forgotten() -> None:
    desk = Desk(*services("ab"))
    desk.launch("a", "b")
    desk.settle()
    desk.driver.forget(desk.spec(service("a")))
    desk.events.clear()
    desk.finish_all()
    assert desk.told("a") == []
    assert desk.told("b") == ["Started", "Ready"]
    assert desk.engine.running("a")


def test_nothing_is_told_after_disowning() -> None:
    desk = Desk(*services("ab"))
    desk.up("a")
    desk.launch("b")
    desk.settle()
    desk.driver.disown()
    desk.compose.finish()
    desk.engine.end(desk.engine.of("a")[0], 1)
    desk.settle()
    assert desk.told("a") == desk.told("b") == []


# --- what is seen


def test_what_runs_already_appears() -> None:
    desk = Desk(*services("a"))
    desk.driver.forget(desk.spec(service("a")))
    desk.engine.run(desk.engine.create(service("a"), 1))
    desk.settle()
    desk.events.clear()
    desk.follow(service("a"))
    assert desk.told("a") == ["Appeared"]
    seen = desk.event("a", ServiceObserved)
    assert isinstance(seen, ServiceObserved)
    assert seen.status.running
    assert not seen.status.outdated
    desk.poller.advance(60.0)
    assert desk.compose.log == []


def test_one_that_ended_before_it_was_seen_to_run_has_started_and_ended() -> None:
    desk = Desk(*services("a"))
    desk.compose.codes["a"] = 3
    desk.launch("a")
    desk.finish_all()
    assert desk.told("a")[0] == "Started"
    assert desk.told("a")[-2:] == ["Exited", "Gone"]
    exited = desk.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=3)


def test_a_container_started_by_hand_appears_under_a_number_of_its_own() -> None:
    desk = Desk(*services("a"))
    desk.up("a")
    container = desk.engine.of("a")[0]
    desk.engine.end(container, 0)
    desk.settle()
    desk.engine.run(desk.engine.of("a")[0])
    desk.settle()
    assert desk.told("a") == ["Exited", "Gone", "Appeared"]
    appeared = desk.event("a", Appeared)
    assert isinstance(appeared, Appeared)
    assert appeared.run.number == 2


def test_of_replicas_the_missing_one_is_started_and_the_others_left_alone() -> None:
    desk = Desk(service("a", replicas=3))
    desk.up("a")
    victim = desk.engine.running("a")[1]
    desk.engine.end(victim, 9)
    desk.settle()
    degraded = desk.event("a", Degraded)
    assert isinstance(degraded, Degraded)
    assert degraded.status == ExitStatus(code=9)
    assert "2 of 3" in degraded.why
    desk.mend("a")
    desk.settle()
    assert desk.compose.under_way is not None
    assert "--no-recreate" in desk.compose.under_way.options
    desk.finish_all()
    assert desk.told("a") == ["Degraded", "Ready"]
    assert len(desk.engine.running("a")) == 3


def test_a_container_that_the_engine_cannot_start_any_more_is_made_anew() -> None:
    desk = Desk(*services("ab"))
    for each in desk.reader.services.values():
        desk.engine.create(each, 1)
    desk.engine.die_starting(desk.engine.of("a")[0])
    (b,) = desk.engine.of("b")
    desk.settle()
    desk.launch("a", "b")
    desk.finish_all()
    assert desk.compose.log == ["rm a", "up a b"]
    assert desk.told("a") == desk.told("b") == ["Started", "Ready"]
    assert [each.id for each in desk.engine.of("b")] == [b.id]


def test_a_replica_that_the_engine_cannot_start_any_more_is_made_anew_and_the_others_left_alone() -> None:
    desk = Desk(service("a", replicas=3))
    desk.up("a")
    victim, *others = desk.engine.running("a")
    desk.engine.end(victim, 9)
    desk.engine.die_starting(desk.engine.containers[victim.id])
    desk.settle()
    desk.mend("a")
    desk.finish_all()
    assert desk.compose.log == ["rm a", "up a"]
    assert desk.told("a") == ["Degraded", "Ready"]
    assert {each.id for each in others} < {each.id for each in desk.engine.running("a")}


def test_what_a_service_depends_on_is_made_anew_when_the_engine_cannot_start_it_any_more() -> None:
    desk = Desk(service("a", depends_on=("b",)), service("b", depends_on=("c",)), *services("cd"))
    for name in "cd":
        desk.engine.die_starting(desk.engine.create(desk.reader.services[name], 1))
    desk.settle()
    desk.launch("a")
    desk.finish_all()
    assert desk.compose.log == ["rm c", "up a"]  # d is none of its business


def test_nothing_is_removed_beside_a_replica_that_is_paused() -> None:
    desk = Desk(service("a", replicas=2))
    desk.up("a")
    victim, paused = desk.engine.running("a")
    desk.engine.put(replace(paused, status="paused"))
    desk.engine.end(victim, 9)
    desk.engine.die_starting(desk.engine.containers[victim.id])
    desk.settle()
    desk.mend("a")
    desk.finish_all()
    assert not any(line.startswith("rm") for line in desk.compose.log)


def test_a_start_that_is_withdrawn_clears_nothing() -> None:
    desk = Desk(*services("a"))
    desk.engine.die_starting(desk.engine.create(desk.reader.services["a"], 1))
    desk.settle()
    desk.launch("a")
    desk.stop("a")
    desk.finish_all()
    assert desk.compose.log == []
    assert desk.told("a") == ["StartFailed"]


@pytest.mark.parametrize("db_runs", [False, True])
def test_a_start_starts_what_the_service_depends_on_and_makes_nothing_anew(db_runs: bool) -> None:
    desk = Desk(service("a", depends_on=("db",)), service("db"))
    if db_runs:
        desk.up("db")
    desk.launch("a")
    desk.settle()
    assert desk.compose.under_way is not None
    assert desk.compose.under_way.options == ["--detach", "--no-recreate"]


def test_a_removal_that_fails_is_told_and_may_be_asked_for_again() -> None:
    desk = Desk(*services("a"))
    desk.up("a")
    desk.stop("a")
    desk.settle()
    assert desk.compose.under_way is not None
    desk.compose.under_way.interrupt()  # which stands for any failure
    desk.finish_all()
    failed = desk.event("a", StopFailed)
    assert isinstance(failed, StopFailed)
    assert "interrupted" in failed.why
    desk.stop("a")
    desk.finish_all()
    assert desk.told("a") == ["StopFailed", "Exited", "Gone"]


def test_a_tag_that_moves_makes_what_runs_outdated() -> None:
    desk = Desk(*services("a"))
    desk.up("a")
    desk.driver.images({"agent:1": "sha256:2"})
    seen = desk.event("a", ServiceObserved)
    assert isinstance(seen, ServiceObserved)
    assert (seen.status.image_id, seen.status.outdated) == ("sha256:2", True)
    desk.driver.images({"agent:1": UNKNOWN_IMAGE})
    assert dict(desk.surveys[-1].new_tags) == {"a": "agent:1"}


# --- an engine that goes away


def test_nothing_is_started_while_the_engine_is_away() -> None:
    desk = Desk(*services("a"), present=False)
    assert desk.told("a") == ["Unobservable", "Unobservable"]  # not asked yet, then asked in vain
    desk.events.clear()
    desk.launch("a")
    failed = desk.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert AWAY in failed.why
    desk.settle()
    assert desk.compose.log == []


def test_an_engine_that_goes_away_during_a_call_is_asked_when_it_is_back_what_came_of_it() -> None:
    desk = Desk(*services("ab"))
    desk.launch("a", "b")
    desk.settle()
    desk.compose.proceed(1)
    desk.engine.leave()
    desk.finish()
    assert desk.told("a") == ["Started", "Ready", "Unobservable"]
    assert desk.told("b") == ["Unobservable"]
    desk.engine.come_back()
    desk.finish_all()
    assert desk.told("a") == ["Started", "Ready", "Unobservable"]
    assert desk.told("b") == ["Unobservable", "Started", "Ready"]  # it was tried again, by itself
    assert desk.compose.log == ["up a b", "up b"]
    assert len(desk.engine.running("a")) == 1


def test_what_ended_while_the_engine_was_away_is_told_with_its_code() -> None:
    desk = Desk(*services("ab"))
    desk.up("a", "b")
    desk.engine.leave()
    desk.settle()
    desk.engine.end(desk.engine.of("a")[0], 5)
    desk.settle()
    assert desk.told("a") == ["Unobservable"]
    desk.engine.come_back()
    desk.settle()
    assert desk.told("a") == ["Unobservable", "Exited", "Gone"]
    assert desk.told("b") == ["Unobservable"]
    exited = desk.event("a", Exited)
    assert isinstance(exited, Exited)
    assert exited.status == ExitStatus(code=5)


def test_what_was_made_anew_while_the_engine_was_away_goes_on_as_the_same_run() -> None:
    desk = Desk(*services("a"))
    desk.up("a")
    desk.engine.leave()
    desk.settle()
    desk.engine.remove(desk.engine.of("a")[0])
    desk.engine.run(desk.engine.create(service("a"), 1))
    desk.engine.come_back()
    desk.settle()
    assert desk.told("a") == ["Unobservable"]
    seen = [e for e in desk.events if isinstance(e, ServiceObserved)][-1]
    assert seen.status.container_id == desk.engine.of("a")[0].id


# --- services that come and go


def test_an_instance_that_is_followed_again_is_told_again_what_there_is() -> None:
    desk = Desk(*services("a"))  # as when it was reset: it is a fresh one, and knows nothing
    desk.follow(service("a"))
    assert isinstance(desk.event("a", ServiceObserved), ServiceObserved)
    desk.up("a")
    claimed = replace(desk.spec(service("a")), agent_class="Agent")  # by the site config, as it runs
    desk.driver.follow(claimed)
    assert isinstance(desk.event("a", ServiceObserved), ServiceObserved)
    assert desk.told("a") == ["Appeared"]


def test_an_instance_with_another_service_begins_anew() -> None:
    desk = Desk(*services("ab"))
    desk.up("a", "b")
    other = replace(desk.spec(service("b")), instance_id="a")
    desk.driver.follow(other)
    assert desk.told("a") == ["Appeared"]
    seen = desk.event("a", ServiceObserved)
    assert isinstance(seen, ServiceObserved)
    assert seen.status.container_id == desk.engine.of("b")[0].id


def test_a_service_that_leaves_its_file_is_an_orphan() -> None:
    desk = Desk(*services("ab"))
    desk.up("a", "b")
    del desk.reader.services["a"]
    desk.driver.manage(desk.driver.load())
    desk.driver.follow(replace(desk.spec(service("a")), service=None, problem="no service"))
    (orphan,) = desk.surveys[-1].orphans.values()
    assert orphan.container_id == desk.engine.of("a")[0].id
    assert desk.driver.is_orphan(orphan.container_id)
    assert desk.told("a") == []
    desk.driver.launch(RunKey("a", 2), replace(desk.spec(service("a")), service=None, problem="no service"))
    failed = desk.event("a", StartFailed)
    assert isinstance(failed, StartFailed)
    assert "no service" in failed.why


def test_what_has_ended_is_made_anew_when_its_image_is_another_by_now() -> None:
    desk = Desk(service("a"))
    desk.up("a")
    (container,) = desk.engine.of("a")
    desk.engine.end(container, 1)
    desk.engine.put(replace(desk.engine.of("a")[0], image="sha256:old"))
    desk.settle()
    desk.launch("a")
    desk.settle()
    assert desk.compose.under_way is not None
    assert desk.compose.under_way.options == ["--detach"]


def test_what_the_engine_is_about_to_start_again_is_removed() -> None:
    desk = Desk(service("a"))
    desk.up("a")
    (container,) = desk.engine.of("a")
    desk.engine.end(container, 1)
    desk.engine.put(replace(desk.engine.of("a")[0], status="restarting"))
    desk.settle()
    desk.events.clear()
    run = RunKey("a", 7)  # the core's own, as nothing runs
    desk.driver.stop(run, signal.SIGKILL, whole_tree=True)
    desk.settle()
    desk.finish_all()
    assert desk.engine.of("a") == []
    told = [type(event).__name__ for event in desk.events if not isinstance(event, ServiceObserved)]
    assert told == ["Exited", "Gone"]
