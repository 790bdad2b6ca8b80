"""What an earlier daemon left, put into force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hostmanager_server.core import plan
from hostmanager_server.core.actions import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.history import History, with_history
from hostmanager_server.core.model import Instance, Phase, State
from hostmanager_server.core.plan import Instances, TargetChange
from hostmanager_server.core.spec import Target


def restored(
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


def spared(instances: Instances, lost: str, moment: Instant) -> tuple[dict[str, Instance], list[LogEntry]]:
    """The instances, none of which is brought down because it is not known any more what was asked of it.
    `lost` says why it is not."""
    message = f"{lost}; targets are those of the config, but whatever runs is to go on"
    note = LogEntry(EntryKind.DAEMON, "JournalLost", message, moment, severity=Severity.ERROR)
    down = [i for i in instances.values() if i.wanted.target is Target.DOWN]
    return {i.instance_id: replace(i, wanted=replace(i.wanted, target_lost=True)) for i in down}, [note]


def ended_unseen(instances: Instances) -> list[str]:
    """Those whose run ended while no daemon was there."""
    return [
        i.instance_id
        for i in instances.values()
        if i.standing.state is not State.DOWN
        and (i.observed.run is None or i.observed.run.phase is Phase.ENDING)
    ]


def journal_news(problem: str, moment: Instant) -> LogEntry:
    """The journal has begun to fail, for this reason; or works again, when there is none."""
    if problem:
        return LogEntry(EntryKind.DAEMON, "JournalFailed", problem, moment, severity=Severity.ERROR)
    message = "the journal is written again: all that was asked for is on disk"
    return LogEntry(EntryKind.DAEMON, "JournalRecovered", message, moment)
