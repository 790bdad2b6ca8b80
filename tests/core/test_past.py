"""The recent past of an instance, folded from events, and the hints for what to try."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.hints import BY_REASON, hints
from hostmanager_server.core.model import (
    Exit,
    Instance,
    Observed,
    Outcome,
    State,
    UnmetDependency,
    Wanted,
    new_instance,
)
from hostmanager_server.core.origin import Origin, OriginKind, Requester
from hostmanager_server.core.past import Past, WorkingRun, is_as_wanted
from hostmanager_server.core.spec import InstanceSpec, Management, ProcessSpec, StartCondition, Target

from tests.repo.pages import ROOT

SPEC = InstanceSpec("a", "Agent", process=ProcessSpec(("a",)))
NOW = Instant(10_000.0, 10_000.0)
CALL = Origin(OriginKind.CALL, NOW, requester=Requester("ada"))


@dataclass(frozen=True)
class Logged:
    """A published event."""

    entry: LogEntry


def event(at: float, reason: str, instance_id: str = "a", message: str = "", **more: Any) -> Logged:
    kinds = {"Update": EntryKind.REQUEST, "Restart": EntryKind.REQUEST, "Started": EntryKind.MANAGER}
    kind = kinds.get(reason, EntryKind.EXIT)
    return Logged(LogEntry(kind, reason, message, Instant(at, at), instance_id, **more))


def instance(state: State = State.START_AT, reason: str = "BackingOff", **standing: Any) -> Instance:
    new = new_instance(SPEC)
    return replace(new, standing=replace(new.standing, state=state, reason=reason, **standing))


def past_of(one: Instance, *events: Logged) -> Past[Logged]:
    """Fold events, which come oldest first."""
    past = Past[Logged](one, NOW)
    for each in reversed(events):
        past.add(each)
    return past


def test_a_crash_loop_began_after_the_last_run_that_lasted() -> None:
    crashes = [each for n in range(8) for each in (event(3000 + n, "Up"), event(3000.5 + n, "Exited"))]
    past = past_of(
        instance(),
        event(100, "Up"),
        event(200, "Stopping"),
        event(1000, "Up"),
        event(2000, "Exited"),
        event(2002, "StartFailed"),
        *crashes,
    )
    assert past.last_worked == WorkingRun(1000, 2000)
    assert past.since == 2000
    assert [each.entry.at.wall for each in past.ends] == [3007.5, 3006.5, 3005.5, 3004.5, 3003.5]
    assert past.more_ends == 5
    assert past.complete


def test_the_changes_before_the_trouble_come_newest_first() -> None:
    past = past_of(
        instance(),
        event(900, "Changed", message="before the good run"),
        event(1000, "Up"),
        event(1500, "Update", "", "targets: other up"),
        event(1600, "Update", "", "targets: b down, a up", origin=CALL),
        event(1700, "Changed", message="--port: 1 -> 2", origin=CALL),
        event(1800, "Restart", "", "restart of all", origin=CALL),
        event(1900, "Upgraded", ""),
        event(1900.1, "ConfigRead", "", origin=Origin(OriginKind.DAEMON, NOW)),
        event(1900.1, "Added", origin=Origin(OriginKind.CONFIG, NOW)),
        event(2000, "Exited"),
        event(2500, "ConfigRead", "", origin=CALL),
    )
    assert [each.entry.reason for each in past.changes] == ["Upgraded", "Restart", "Changed", "Update"]


def test_at_most_five_changes_and_five_ends_are_kept() -> None:
    past = past_of(
        instance(),
        *(event(n, "Changed") for n in range(20)),
        *(event(100 + n, "Exited") for n in range(20)),
    )
    assert (len(past.changes), len(past.ends), past.more_ends) == (5, 5, 15)
    assert past.last_worked is None
    assert past.since == 100


def test_a_living_run_works_once_it_has_lasted() -> None:
    running = instance(State.UP, "Running")
    assert past_of(running, event(9000, "Up")).last_worked == WorkingRun(9000, None)
    young = past_of(running, event(9000, "Exited"), event(9990, "Up"))
    assert young.last_worked is None
    adopted = past_of(running, event(5000, "Up"), event(9990, "Adopted"))
    assert adopted.last_worked == WorkingRun(5000, None), "the run began under an earlier daemon"


def test_events_of_others_do_not_count() -> None:
    past = past_of(instance(), event(100, "Exited", "b"), event(200, "Changed", "b"))
    assert (past.ends, past.changes, past.since) == ([], [], None)


@pytest.mark.parametrize(
    ("one", "wanted"),
    [
        (instance(State.UP, "Running"), True),
        (instance(State.UP, "Running", failures=2), False),
        (instance(State.UP, "Unhealthy"), False),
        (instance(State.WAIT_START, "Starting"), False),
        (instance(State.DOWN, "Finished", outcome=Outcome.COMPLETED), True),
        (instance(State.DOWN, "Failed", outcome=Outcome.FAILED), False),
        (replace(instance(State.DOWN, "Stopped"), wanted=Wanted(Target.DOWN, Management.HOST)), True),
        (replace(instance(State.WAIT_DEAD, "Stopping"), wanted=Wanted(Target.DOWN, Management.HOST)), False),
        (replace(instance(State.DOWN, "Stopped"), wanted=Wanted(Target.PASSIVE, Management.HOST)), True),
        (replace(instance(State.UP, "Running"), observed=Observed(unobservable="no engine")), False),
    ],
)
def test_as_wanted_means_well_and_where_the_target_is(one: Instance, *, wanted: bool) -> None:
    assert is_as_wanted(one) is wanted


# --- hints


def hints_of(one: Instance, **status: Any) -> list[str]:
    end = Exit(ExitStatus(**status), NOW, False, "ended") if status else None
    return list(hints(one, end))


def test_every_reason_of_a_state_has_its_hint() -> None:
    page = (ROOT / "docs/reference/states.md").read_text().partition("## Reasons of a state")[2]
    words = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert words == BY_REASON.keys()


def test_hints_begin_with_the_most_specific() -> None:
    assert hints_of(instance(), code=127)[0].startswith("a program was not found")
    assert hints_of(instance(), signal=9)[0].startswith("the kernel kills for lack of memory")
    assert hints_of(instance(), signal=9, limit="cpu")[0].startswith("the run reached `limits: cpu`")
    assert hints_of(instance(), code=137, out_of_memory=True)[0].startswith(
        "the container reached its memory"
    )
    assert hints_of(instance(), code=3)[-1] == "`hostmanager logs a -n 50` shows what it wrote"
    assert hints_of(instance(State.UP, "Running")) == []


def test_hints_name_the_instances_that_are_waited_for() -> None:
    unmet = (UnmetDependency("hub", StartCondition.READY, "its target is down"),)
    waiting = replace(instance(State.START, "DependencyDown"), observed=Observed(waiting_for=unmet))
    assert hints_of(waiting) == ["`hostmanager up a --with-dependencies` starts hub, too"]


def test_only_an_unexpected_end_needs_a_hint() -> None:
    end = Exit(ExitStatus(code=127), NOW, True, "ended")
    assert not any("not found" in each for each in hints(instance(), end))


def test_severities_have_an_order() -> None:
    assert list(Severity) == [Severity.INFO, Severity.WARNING, Severity.ERROR]
