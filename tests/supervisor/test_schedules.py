"""Schedules and holds under the supervisor, across deaths of the daemon."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core.model import Outcome, State
from hostmanager_server.core.spec import InstanceSpec, RestartPolicy, RestartWhen, Schedule

from tests.fakes.driver import Behaviour
from tests.supervisor.conftest import ManagerHarness, spec

EVERY_MINUTE = Schedule("* * * * *", "UTC")


def job(schedule: Schedule = EVERY_MINUTE) -> InstanceSpec:
    return spec("job", schedule=schedule, restart=RestartPolicy(RestartWhen.ON_FAILURE))


def runs(harness: ManagerHarness) -> int:
    return harness.instances["job"].standing.runs


def test_a_one_shot_runs_at_each_time_of_its_schedule(harness: ManagerHarness) -> None:
    harness.host.behave("job", Behaviour(exits_after=1.0))
    harness.start(job())
    harness.turn()
    assert (runs(harness), harness.instances["job"].standing.reason) == (0, "Scheduled")
    harness.pass_time(600)
    assert runs(harness) == 10
    assert harness.instances["job"].standing.outcome is Outcome.COMPLETED
    assert harness.instances["job"].standing.state is State.DOWN


def test_the_schedule_goes_on_after_the_death_of_the_daemon(harness: ManagerHarness) -> None:
    harness.host.behave("job", Behaviour(exits_after=1.0))
    harness.start(job())
    harness.pass_time(90)
    before = runs(harness)
    harness.die()
    harness.poller.advance(60)  # no daemon runs at the next time
    harness.start(job())
    harness.pass_time(1)
    assert runs(harness) == before + 1, "a run that is less than `catch-up` late begins late"
    harness.die()
    harness.poller.advance(300)
    harness.start(job())
    harness.pass_time(1)
    assert runs(harness) == before + 1
    log = [entry.entry.reason for entry in harness.store.events_since(0).events]
    assert "RunLeftOut" in log


def test_a_run_that_is_still_going_on_is_not_doubled_by_the_next_daemon(harness: ManagerHarness) -> None:
    harness.start(job())
    harness.pass_time(90)
    assert len(harness.alive("job")) == 1
    harness.die()
    harness.start(job())
    harness.pass_time(300)
    assert len(harness.alive("job")) == 1
    assert runs(harness) == 1


def test_a_reload_changes_the_times(harness: ManagerHarness) -> None:
    harness.host.behave("job", Behaviour(exits_after=1.0))
    harness.start(job(Schedule("0 0 1 1 *", "UTC")))
    harness.pass_time(120)
    assert runs(harness) == 0
    harness.reload(job())
    harness.pass_time(120)
    assert runs(harness) == 2
    harness.reload(replace(job(), schedule=None))
    harness.pass_time(120)
    assert harness.instances["job"].observed.next_run is None


def test_a_hold_survives_the_daemon_and_a_stop_of_the_manager(harness: ManagerHarness) -> None:
    harness.start(spec("a"))
    harness.pass_time(2)
    harness.manager.of_instances.hold(["a"], 600.0, "swap")
    harness.manager.save()
    harness.die()
    harness.host.crash("a", harness.host.behaviours.get("a", Behaviour()).status)
    harness.start(spec("a"))
    harness.pass_time(2)
    assert harness.instances["a"].standing.reason == "Held"
    assert not harness.alive("a")
    harness.pass_time(600)
    assert harness.alive("a")
    harness.manager.save_decisions()
    assert harness.journal.holds == {}
