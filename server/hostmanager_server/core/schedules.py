"""Scheduled runs of one-shots: when a run is due, and why a due run is left out.

The supervisor computes the times (`Observed.next_run`, by the wall clock), this module decides what they
mean.
"""

from __future__ import annotations

from datetime import UTC, datetime

from hostmanager.values import replace

from hostmanager_server.core.actions import Action
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Job
from hostmanager_server.core.spec import Target

# The longest wait, in s, before the clocks are compared again: the wall clock may be set meanwhile.
RECHECK = 60.0
_SHORTEST = 0.001  # s, so that a wait that ends a moment early does not spin


def start_if_due(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Order the scheduled run that is due; the supervisor then computes the time of the next run."""
    due, schedule = instance.observed.next_run, instance.spec.schedule
    if schedule is None or due is None or now.wall < due or instance.observed.unobservable:
        return instance
    instance = replace(instance, observed=replace(instance.observed, next_run=None))
    wanted = instance.wanted
    enforced = wanted.enforced and not instance.retired and wanted.successor is None
    enforced = enforced and instance.spec.workload is not None and not instance.wants_no_container
    if wanted.target is not Target.UP or not enforced:
        return instance  # down on purpose
    if why := _why_left_out(instance, now.wall - due, schedule.catch_up):
        text = f"the run of {_text(due)} is left out: {why}"
        actions.append(_entry("RunLeftOut", text, instance, now, Severity.WARNING))
        return instance
    actions.append(_entry("RunDue", f"the run of {_text(due)} is due", instance, now))
    standing = replace(instance.standing, outcome=None, retry_at=None, failures=0, backgrounded=0)
    return replace(instance, wanted=replace(wanted, job=Job()), standing=standing)


def next_wake(instance: Instance, now: Instant) -> float | None:
    """Return when (mono, s) the schedule needs the next decision; None without a schedule."""
    due = instance.observed.next_run
    if instance.spec.schedule is None or due is None:
        return None
    return now.mono + min(RECHECK, max(_SHORTEST, due - now.wall))


def next_run_text(instance: Instance) -> str:
    """Return the time of the next scheduled run in words; empty without one."""
    due = instance.observed.next_run
    scheduled = instance.spec.schedule is not None and due is not None and instance.wanted.job is None
    return f"next run {_text(due)}" if scheduled and due is not None else ""


def _why_left_out(instance: Instance, late: float, catch_up: float) -> str:
    if instance.observed.run is not None or instance.wanted.job is not None or instance.wanted.restart:
        return "the run before it goes on"
    if instance.held:
        return "the instance is held"
    if late > catch_up:
        return f"{late:.0f} s have passed, and catch-up allows {catch_up:g} s"
    return ""


def _text(wall: float) -> str:
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M} UTC"


def _entry(
    reason: str, text: str, instance: Instance, now: Instant, severity: Severity = Severity.INFO
) -> LogEntry:
    message = f"{instance.spec.full_name}: {text}"
    return LogEntry(EntryKind.LAUNCH, reason, message, now, instance.instance_id, severity)
