"""Recovery of instances, targets and histories from an earlier daemon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hostmanager.values import dataclass, field, replace

from hostmanager_server.core import plan
from hostmanager_server.core.actions import listed
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Adopted, Instant
from hostmanager_server.core.facts import describe
from hostmanager_server.core.history import History, with_history
from hostmanager_server.core.holds import hold_text, keep_holds
from hostmanager_server.core.holds import recovered as recovered_hold
from hostmanager_server.core.lifecycle import resume
from hostmanager_server.core.model import (
    Exit,
    Hold,
    Instance,
    Instances,
    Observed,
    Phase,
    Run,
    Standing,
    State,
    StopStage,
    Wanted,
)
from hostmanager_server.core.origin import RequestOrigins
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import InstanceSpec, Management, Target


@dataclass(frozen=True, slots=True)
class Recovered:
    """The targets, with their origins, histories and holds in the journal of an earlier daemon.

    `lost` says why the requested targets are unknown, or is empty.
    """

    targets: Mapping[str, Target] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    lost: str = ""
    origins: Mapping[str, RequestOrigins] = field(default_factory=dict)


def recover_runs(
    runs: Iterable[Adopted],
    specs: Mapping[str, InstanceSpec],
    recovered: Recovered,
    now: Instant,
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """Return an instance for each run of the earlier daemon, and log entries.

    An instance keeps its state under the earlier daemon: up, or on its way down if its recovered (else its
    configured) target is down. An instance that the config does not list is retired. Another class or
    management in the config resets the instance, as in a reload. An exit in the history of the earlier daemon
    is not reported again.
    """
    instances: dict[str, Instance] = {}
    entries: list[LogEntry] = []
    for adopted in runs:
        instance_id = adopted.run.instance_id
        history = recovered.histories.get(instance_id)
        last_exit = history.last_exit if history is not None else None
        recorded = last_exit if _is_exit_of(adopted, last_exit) else None
        if recorded is not None and adopted.gone:
            continue  # the run ended and was reported; only its runtime record remained
        instance = _instance(adopted, specs.get(instance_id), recovered)
        if adopted.ended is not None:
            restarted = history is not None and history.restart_of == adopted.run.number
            instance = _ended(instance, adopted, recorded, restarted=restarted, now=now)
        elif not adopted.ready or now.mono < adopted.started.mono + instance.spec.up_after:
            instance = resume(instance, State.WAIT_START)
        instances[instance_id] = instance
        entries.append(_entry(adopted, recorded, now))
    return instances, entries


def _instance(adopted: Adopted, listed: InstanceSpec | None, recovered: Recovered) -> Instance:
    """Return the instance of a run, up; retired if the config lists no such instance."""
    instance_id = adopted.run.instance_id
    if listed is None:
        spec = InstanceSpec(instance_id, adopted.agent_class or "unknown", process=adopted.process)
        wanted = Wanted(Target.DOWN, Management.RETIRED)
    else:
        spec = listed
        target = recovered.targets.get(instance_id, listed.initial_target)
        history = recovered.histories.get(instance_id)
        if history is not None and history.job is not None and history.job.target_after is target:
            target = Target.UP  # until the end of the run; see with_history
        wanted = Wanted(target, Management.HOST)
        if not _is_same_kind(adopted, listed):
            spec = InstanceSpec(instance_id, adopted.agent_class or "unknown", process=adopted.process)
            wanted = replace(wanted, successor=listed)
    message = "recovered from an earlier daemon"
    standing = Standing(reason="Running", message=message, runs=adopted.run.number)
    return resume(Instance(spec, wanted, Observed(run=_run(adopted)), standing), State.UP)


def _is_same_kind(adopted: Adopted, listed: InstanceSpec) -> bool:
    return listed.management is Management.HOST and adopted.agent_class in ("", listed.agent_class)


def _run(adopted: Adopted) -> Run:
    phase = Phase.READY if adopted.ready else Phase.RUNNING
    return Run(adopted.run.number, phase, adopted.process, adopted.pid, adopted.started, adopted=True)


def _is_exit_of(adopted: Adopted, exit_: Exit | None) -> bool:
    return exit_ is not None and (exit_.pid, exit_.started) == (adopted.pid, adopted.started)


def _ended(
    instance: Instance, adopted: Adopted, recorded: Exit | None, *, restarted: bool, now: Instant
) -> Instance:
    """Return the instance of a run that ended before this daemon started.

    `recorded` is the exit that the earlier daemon recorded; None if the process ended while no daemon ran.
    """
    assert adopted.ended is not None
    # The earlier daemon had requested the stop, or had begun to stop the rest of the tree.
    expected = instance.wanted.target is Target.DOWN or recorded is not None or restarted
    why = f"ended with {describe(adopted.ended)} while no daemon ran"
    exit_ = recorded or Exit(
        adopted.ended, now, expected, why, adopted.started, adopted.pid, adopted.last_output
    )
    run = instance.observed.run
    assert run is not None
    if expected:
        instance = resume(instance, State.WAIT_DEAD)
    stage = StopStage.SIGNAL if expected else None
    rest = None if adopted.gone else replace(run, phase=Phase.ENDING, stop_stage=stage)
    return replace(instance, observed=replace(instance.observed, last_exit=exit_, run=rest))


def _entry(adopted: Adopted, recorded: Exit | None, now: Instant) -> LogEntry:
    pid, instance_id = adopted.pid, adopted.run.instance_id
    if adopted.ended is None:
        message = f"recovered pid {pid}, started by an earlier daemon"
        return LogEntry(EntryKind.DAEMON, "Adopted", message, now, instance_id)
    if recorded is not None:
        message = f"recovered the remaining processes of pid {pid}"
        return LogEntry(EntryKind.DAEMON, "Adopted", message, now, instance_id)
    rest = "" if adopted.gone else "; recovered its remaining processes"
    message = f"pid {pid} of an earlier daemon ended with {describe(adopted.ended)} while no daemon ran{rest}"
    return LogEntry(EntryKind.DAEMON, "EndedUnseen", message, now, instance_id, Severity.WARNING)


def changed_targets(recovered: Recovered, instances: Instances) -> list[TargetChange]:
    """Return the recovered targets of tracked instances that differ from the config.

    A passive target is no request, so recovery leaves the configured target.
    """
    return [
        TargetChange(instance_id, target)
        for instance_id, target in sorted(recovered.targets.items())
        if (instance := instances.get(instance_id)) is not None
        and target is not Target.PASSIVE
        and instance.spec.initial_target is not target
    ]


def recover_targets(
    instances: Instances, recovered: Recovered, now: Instant
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """Return the instances with recovered targets, histories and holds, and log entries."""
    changes = changed_targets(recovered, instances)
    new = [change for change in changes if instances[change.instance_id].wanted.target is not change.target]
    changed = plan.set_targets(instances, new)
    for instance_id, history in recovered.histories.items():
        if instance_id in instances:
            before = changed.get(instance_id, instances[instance_id])
            changed[instance_id] = with_history(before, history, now)
    for instance_id, origins in recovered.origins.items():
        if instance_id in instances and instance_id in recovered.targets:
            before = changed.get(instance_id, instances[instance_id])
            if before.wanted.target is recovered.targets[instance_id]:
                changed[instance_id] = replace(before, wanted=replace(before.wanted, origins=origins))
    held = {name: recovered_hold(hold, now) for name, hold in recovered.holds.items()}
    changed |= keep_holds({**instances, **changed}, held)
    entries = []
    if changes:
        targets = ", ".join(f"{change.instance_id} {change.target.value}" for change in changes)
        entries.append(LogEntry(EntryKind.DAEMON, "TargetsRestored", f"recovered targets: {targets}", now))
    if kept := [f"{name} {hold_text(hold)}" for name, hold in sorted(held.items()) if name in instances]:
        message = f"recovered holds: {listed(kept)}"
        entries.append(LogEntry(EntryKind.DAEMON, "HoldsRestored", message, now))
    return changed, entries


def keep_running_if_journal_lost(
    instances: Instances, lost: str, now: Instant
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """Return the instances with the target down, marked to keep running.

    Without the journal the requested targets are unknown, so recovery stops no running instance. `lost` says
    why the journal cannot be used.
    """
    message = f"{lost}; the config's targets apply, but running instances keep running"
    entry = LogEntry(EntryKind.DAEMON, "JournalLost", message, now, severity=Severity.ERROR)
    down = [i for i in instances.values() if i.wanted.target is Target.DOWN]
    return {i.instance_id: replace(i, wanted=replace(i.wanted, target_lost=True)) for i in down}, [entry]


def ended_without_daemon(instances: Instances) -> list[str]:
    """Return the ids of recovered instances that ended while no daemon ran."""
    return [
        i.instance_id
        for i in instances.values()
        if i.standing.state is not State.DOWN
        and (i.observed.run is None or i.observed.run.phase is Phase.ENDING)
    ]
