"""When an instance counts as failed and as recovered, and what of it must be told."""

from __future__ import annotations

import pytest
from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.events import Instant
from hostmanager_server.core.failures import CRASHES, STABLE, Failure, FailureWatch
from hostmanager_server.core.model import (
    Instance,
    Observed,
    Outcome,
    Standing,
    State,
    Wanted,
)
from hostmanager_server.core.spec import InstanceSpec, Management, ServiceSpec, Target


def at(seconds: float) -> Instant:
    return Instant(seconds, 1e9 + seconds)


def instance(
    state: State = State.UP, *, target: Target = Target.UP, failures: int = 0, outcome: Outcome | None = None,
    unhealthy: int = 0, enforced: bool = True, management: Management = Management.HOST,
) -> Instance:  # fmt: skip
    service = ServiceStatus(running=True, unhealthy_replicas=unhealthy)
    return Instance(
        InstanceSpec("a", "A", service=ServiceSpec("p", ("/c.yaml",), "s", "i")),
        Wanted(target, management, enforced=enforced),
        Observed(service=service),
        Standing(state, message="the message", failures=failures, outcome=outcome),
    )


FAILED = instance(State.DOWN, outcome=Outcome.FAILED)
CRASHING = instance(State.START_AT, failures=CRASHES)
UNHEALTHY = instance(unhealthy=1)
SOUND = instance()


def told(watch: FailureWatch) -> list[tuple[str, str]]:
    """Tell everything that is due; return the ids and words."""
    found = []
    for each in watch.untold():
        failure = watch.failures[each]
        found.append((each, failure.recovered or failure.reason))
        watch.told(each)
    return found


@pytest.mark.parametrize(
    ("failing", "reason"), [(FAILED, "GaveUp"), (CRASHING, "CrashLoop"), (UNHEALTHY, "Unhealthy")]
)
def test_a_failure_is_told_once_and_so_is_its_end(failing: Instance, reason: str) -> None:
    watch = FailureWatch()
    watch.observe("a", failing, at(0))
    assert told(watch) == [("a", reason)]
    watch.observe("a", failing, at(1))
    watch.observe("a", SOUND, at(2))
    watch.observe("a", failing, at(3))  # again, before it was stable
    watch.observe("a", SOUND, at(4))
    assert told(watch) == []
    watch.observe("a", SOUND, at(3 + STABLE))
    assert told(watch) == [("a", "Up")]
    watch.observe("a", SOUND, at(100))
    assert (told(watch), watch.failures) == ([], {})


def test_single_crashes_are_no_failure() -> None:
    watch = FailureWatch()
    watch.observe("a", instance(State.START_AT, failures=CRASHES - 1), at(0))
    watch.observe("a", instance(State.UP, failures=CRASHES), at(1))  # up again, not yet forgiven
    assert watch.failures == {}


@pytest.mark.parametrize(
    "quiet",
    [
        instance(State.DOWN, target=Target.DOWN, outcome=Outcome.FAILED),
        instance(target=Target.PASSIVE, unhealthy=1),
        instance(State.DOWN, outcome=Outcome.FAILED, enforced=False),
        instance(State.DOWN, outcome=Outcome.FAILED, management=Management.RETIRED),
    ],
)
def test_what_is_not_wanted_up_does_not_fail(quiet: Instance) -> None:
    watch = FailureWatch()
    watch.observe("a", quiet, at(0))
    assert watch.failures == {}


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (instance(State.DOWN, target=Target.DOWN), "TargetDown"),
        (instance(State.WAIT_DEAD, management=Management.RETIRED), "TargetDown"),
        (instance(State.DOWN, outcome=Outcome.COMPLETED), "Finished"),
        (None, "Removed"),
    ],
)
def test_a_failure_ends_when_the_target_is_met_or_given_up(after: Instance | None, reason: str) -> None:
    watch = FailureWatch()
    watch.observe("a", FAILED, at(0))
    told(watch)
    watch.observe("a", after, at(1))
    assert told(watch) == [("a", reason)]


def test_a_stopped_manager_ends_no_failure() -> None:
    watch = FailureWatch()
    watch.observe("a", FAILED, at(0))
    told(watch)
    watch.observe("a", instance(State.DOWN, enforced=False), at(1))
    assert told(watch) == []
    assert watch.failures


def test_a_failure_that_ended_before_its_turn_is_not_told() -> None:
    watch = FailureWatch()
    watch.observe("a", FAILED, at(0))
    watch.observe("a", instance(State.DOWN, target=Target.DOWN), at(1))
    assert (told(watch), watch.failures) == ([], {})


def test_a_failure_that_returns_before_its_end_was_told_goes_on() -> None:
    watch = FailureWatch()
    watch.observe("a", FAILED, at(0))
    told(watch)
    watch.observe("a", SOUND, at(1))
    watch.observe("a", SOUND, at(1 + STABLE))
    watch.observe("a", CRASHING, at(2 + STABLE))
    assert told(watch) == []
    assert watch.failures["a"].reason == "CrashLoop"


def test_a_daemon_that_starts_knows_what_was_told() -> None:
    watch = FailureWatch({"a": Failure("GaveUp", "it ended", 5.0, told=True)})
    watch.observe("a", FAILED, at(0))
    assert told(watch) == []
    watch.observe("a", SOUND, at(1))
    assert watch.next_end({"a": SOUND}) == STABLE
    watch.observe("a", SOUND, at(STABLE))
    assert told(watch) == [("a", "Up")]


def test_the_next_decision_is_due_only_for_what_is_up() -> None:
    watch = FailureWatch()
    watch.observe("a", FAILED, at(0))
    assert watch.next_end({"a": FAILED}) is None
    assert watch.next_end({}) is None
