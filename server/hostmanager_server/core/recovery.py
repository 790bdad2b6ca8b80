"""Recovery: instances, targets and histories that an earlier daemon left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hostmanager_server.core import plan
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Adopted, Instant
from hostmanager_server.core.facts import describe
from hostmanager_server.core.history import History, with_history
from hostmanager_server.core.lifecycle import resume
from hostmanager_server.core.model import (
    Exit,
    Instance,
    Observed,
    Phase,
    Run,
    Standing,
    State,
    StopStage,
    Wanted,
)
from hostmanager_server.core.plan import Instances, TargetChange
from hostmanager_server.core.spec import InstanceSpec, Management, Target


@dataclass(frozen=True, slots=True)
class Recovered:
    """What is to be taken over of an earlier daemon. `lost` says why its targets cannot be known."""

    targets: Mapping[str, Target] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    lost: str = ""


def recover_runs(
    runs: Iterable[Adopted],
    specs: Mapping[str, InstanceSpec],
    left: Recovered,
    moment: Instant,
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """Each run as an instance, where it stood when its daemon went: up, or on its way down when its target
    (of those that are left, else as configured) is down. One that the config does not list is retired; one
    that it lists with another class or management is reset, as by a reload. An end that the earlier daemon
    saw is not told again."""
    found: dict[str, Instance] = {}
    entries: list[LogEntry] = []
    for adopted in runs:
        instance_id = adopted.run.instance_id
        history = left.histories.get(instance_id)
        seen = history.last_exit if history is not None and _is_of(adopted, history.last_exit) else None
        if seen is not None and adopted.gone:
            continue  # only its record was left
        listed = specs.get(instance_id)
        instance = _instance(adopted, listed, left)
        if adopted.ended is not None:
            restarted = history is not None and history.restart_of == adopted.run.number
            instance = _ended(instance, adopted, seen, restarted=restarted, moment=moment)
        elif not adopted.ready:
            instance = resume(instance, State.WAIT_START)
        found[instance_id] = instance
        entries.append(_entry(adopted, seen, moment))
    return found, entries


def _instance(adopted: Adopted, listed: InstanceSpec | None, left: Recovered) -> Instance:
    """Return the instance of a run, up; retired if the config does not list the instance."""
    instance_id = adopted.run.instance_id
    if listed is None:
        spec = InstanceSpec(instance_id, adopted.agent_class or "unknown", process=adopted.process)
        wanted = Wanted(Target.DOWN, Management.RETIRED)
    else:
        spec = listed
        wanted = Wanted(left.targets.get(instance_id, listed.initial_target), Management.HOST)
        if not _is_same_kind(adopted, listed):
            spec = InstanceSpec(instance_id, adopted.agent_class or "unknown", process=adopted.process)
            wanted = replace(wanted, successor=listed)
    standing = Standing(
        reason="Running", message="taken back from an earlier daemon", runs=adopted.run.number
    )
    return resume(Instance(spec, wanted, Observed(run=_run(adopted)), standing), State.UP)


def _is_same_kind(adopted: Adopted, listed: InstanceSpec) -> bool:
    return listed.management is Management.HOST and adopted.agent_class in ("", listed.agent_class)


def _run(adopted: Adopted) -> Run:
    phase = Phase.READY if adopted.ready else Phase.RUNNING
    return Run(adopted.run.number, phase, adopted.process, adopted.pid, adopted.started, adopted=True)


def _is_of(adopted: Adopted, exit_: Exit | None) -> bool:
    return exit_ is not None and (exit_.pid, exit_.started) == (adopted.pid, adopted.started)


def _ended(
    instance: Instance, adopted: Adopted, seen: Exit | None, *, restarted: bool, moment: Instant
) -> Instance:
    """Return the instance of a run whose main process ended before this daemon came.

    `seen` is the exit that the earlier daemon recorded. Without one, the process ended while no daemon ran.
    """
    assert adopted.ended is not None
    # The earlier daemon had asked for the end, or had begun to stop the rest of the tree.
    expected = instance.wanted.target is Target.DOWN or seen is not None or restarted
    why = f"ended with {describe(adopted.ended)} while no daemon was there to see it"
    exit_ = seen or Exit(adopted.ended, moment, expected, why, adopted.started, adopted.pid)
    run = instance.observed.run
    assert run is not None
    if expected:
        instance = resume(instance, State.WAIT_DEAD)
    stage = StopStage.SIGNAL if expected else None
    rest = None if adopted.gone else replace(run, phase=Phase.ENDING, stop_stage=stage)
    return replace(instance, observed=replace(instance.observed, last_exit=exit_, run=rest))


def _entry(adopted: Adopted, seen: Exit | None, moment: Instant) -> LogEntry:
    started = f"pid {adopted.pid} was started by an earlier daemon"
    instance_id = adopted.run.instance_id
    if adopted.ended is None:
        return LogEntry(EntryKind.DAEMON, "Adopted", f"{started} and is taken back", moment, instance_id)
    if seen is not None:
        message = f"what pid {adopted.pid} left behind is taken back"
        return LogEntry(EntryKind.DAEMON, "Adopted", message, moment, instance_id)
    rest = "" if adopted.gone else "; what it left behind is taken back"
    message = f"{started} and ended with {describe(adopted.ended)} while none was there{rest}"
    return LogEntry(EntryKind.DAEMON, "EndedUnseen", message, moment, instance_id, Severity.WARNING)


def recover_targets(
    instances: Instances, targets: Sequence[TargetChange], histories: Mapping[str, History], moment: Instant
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """The instances with the targets that were asked for, and what is known of them."""
    new = [change for change in targets if instances[change.who].wanted.target is not change.target]
    changed = plan.set_targets(instances, new)
    for instance_id, history in histories.items():
        before = changed.get(instance_id, instances[instance_id])
        changed[instance_id] = with_history(before, history, moment)
    if not targets:
        return changed, []
    what = ", ".join(f"{change.who} {change.target.value}" for change in targets)
    message = f"targets asked of the daemon before this one: {what}"
    return changed, [LogEntry(EntryKind.DAEMON, "TargetsRestored", message, moment)]


def keep_running_if_journal_lost(
    instances: Instances, lost: str, moment: Instant
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """The instances, none of which is brought down because it is not known any more what was asked of it.
    `lost` says why it is not."""
    message = f"{lost}; targets are those of the config, but whatever runs is to go on"
    entry = LogEntry(EntryKind.DAEMON, "JournalLost", message, moment, severity=Severity.ERROR)
    down = [i for i in instances.values() if i.wanted.target is Target.DOWN]
    return {i.instance_id: replace(i, wanted=replace(i.wanted, target_lost=True)) for i in down}, [entry]


def ended_without_daemon(instances: Instances) -> list[str]:
    """Those whose run ended while no daemon was there."""
    return [
        i.instance_id
        for i in instances.values()
        if i.standing.state is not State.DOWN
        and (i.observed.run is None or i.observed.run.phase is Phase.ENDING)
    ]
