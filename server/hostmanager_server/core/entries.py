"""Event log entries about one instance."""

from __future__ import annotations

from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Exit, Instance, Outcome
from hostmanager_server.core.origin import Origin
from hostmanager_server.core.spec import RestartWhen

# Steps of a request, as long as the request is pending.
_BY_REQUEST = frozenset({EntryKind.LAUNCH, EntryKind.UP, EntryKind.STOP, EntryKind.DOWN, EntryKind.INSTANCE})

IN_BACKGROUND = (
    "the main process ended with code 0 and left processes: the program put itself into the background; run "
    "the program in the foreground (often an option such as --foreground, --nodaemon or -F)"
)


def found_running(instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for a service that runs without a launch by the daemon."""
    message = f"{instance.spec.full_name} was found running"
    return _entry(EntryKind.UP, "FoundRunning", message, instance, now)


def reset(instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for a successor that takes the place of a stopped instance."""
    message = "the former instance is down; its successor takes over"
    return _entry(EntryKind.INSTANCE, "Reset", message, instance, now)


def removed(instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for a retired instance that leaves the list."""
    message = "retired and down: removed from the list"
    return _entry(EntryKind.INSTANCE, "Removed", message, instance, now)


def target_lost(instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for a running instance with a lost target."""
    message = "the instance runs, and its requested target was lost: the target is up from now on"
    return _entry(EntryKind.INSTANCE, "TargetLost", message, instance, now, Severity.WARNING)


def launching(instance: Instance, now: Instant, *, missing_containers: bool = False) -> LogEntry:
    """Return the entry for a launch of the instance, or of its missing containers."""
    name = instance.spec.full_name
    message = f"starting the missing containers of {name}" if missing_containers else f"starting {name}"
    return _entry(EntryKind.LAUNCH, "Launching", message, instance, now)


def start_failed(reason: str, why: str, instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for a failed start."""
    return _entry(EntryKind.START_FAILED, reason, why, instance, now, Severity.ERROR)


def renewed(instance: Instance, why: str, now: Instant) -> LogEntry:
    """Return the entry for a container that the driver replaces, because the container cannot start."""
    return _entry(EntryKind.LAUNCH, "Renewed", why, instance, now, Severity.WARNING)


def restarting_with(instance: Instance, why: str, now: Instant, origin: Origin) -> LogEntry:
    """Return the entry for a restart that follows the start of another instance or service."""
    return _entry(EntryKind.STOP, "RestartedWith", why, instance, now, origin=origin)


def up(instance: Instance, pid: int, now: Instant) -> LogEntry:
    """Return the entry for an instance that became ready."""
    return _entry(EntryKind.UP, "Up", f"{instance.spec.full_name} is up (pid {pid})", instance, now)


def degraded(instance: Instance, missing: str, now: Instant) -> LogEntry:
    """Return the entry for a service that lost some of its containers."""
    message = f"{instance.spec.full_name}: {missing}"
    return _entry(EntryKind.EXIT, "Degraded", message, instance, now, Severity.WARNING)


def condition(
    instance: Instance, reason: str, message: str, now: Instant, severity: Severity = Severity.INFO
) -> LogEntry:
    """Return the entry for a condition of a running service that begins or ends."""
    text = f"{instance.spec.full_name} {message}"
    return _entry(EntryKind.CONDITION, reason, text, instance, now, severity)


def exited(instance: Instance, last_exit: Exit, now: Instant) -> LogEntry:
    """Return the entry for an exit without a stop request."""
    message = f"{instance.spec.full_name} {last_exit.why}"
    done = instance.succeeded(last_exit.status) and instance.spec.restart.when is not RestartWhen.ALWAYS
    severity = Severity.INFO if done else Severity.WARNING
    return _entry(EntryKind.EXIT, "Exited", message, instance, now, severity, last_exit)


def outcome(instance: Instance, message: str, now: Instant) -> LogEntry:
    """Return the entry for an end that no restart follows."""
    if instance.standing.outcome is Outcome.COMPLETED:
        return _entry(EntryKind.EXIT, "Finished", message, instance, now)
    return _entry(EntryKind.EXIT, "GaveUp", message, instance, now, Severity.ERROR)


def backgrounded(instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for a program that put itself into the background."""
    return _entry(EntryKind.EXIT, "Backgrounded", IN_BACKGROUND, instance, now, Severity.WARNING)


def unresponsive(instance: Instance, why: str, now: Instant) -> LogEntry:
    """Return the entry for a run that ends because its liveness probe failed."""
    message = f"{instance.spec.full_name} is {why}"
    return _entry(EntryKind.EXIT, "Unresponsive", message, instance, now, Severity.WARNING)


def stopping(instance: Instance, message: str, now: Instant, *, escalated: bool = False) -> LogEntry:
    """Return the entry for a step of a stop: a warning after the first step."""
    severity = Severity.WARNING if escalated else Severity.INFO
    return _entry(EntryKind.STOP, "Stopping", message, instance, now, severity)


def memory_exceeded(instance: Instance, message: str, now: Instant) -> LogEntry:
    """Return the entry for the restart of a run that uses too much memory."""
    return _entry(EntryKind.STOP, "MemoryExceeded", message, instance, now, Severity.WARNING)


def unlimited(instance: Instance, why: str, now: Instant) -> LogEntry:
    """Return the entry for a run whose memory has no limit although its spec has one."""
    message = f"the limit 'memory' does not hold: {why}"
    return _entry(EntryKind.LAUNCH, "MemoryUnlimited", message, instance, now, Severity.WARNING)


def stop_failed(instance: Instance, why: str, now: Instant) -> LogEntry:
    """Return the entry for a failed stop."""
    return _entry(EntryKind.STOP, "StopFailed", why, instance, now, Severity.ERROR)


def down(instance: Instance, now: Instant) -> LogEntry:
    """Return the entry for the end of a stop."""
    what = "its containers are" if instance.spec.service is not None else "the whole process tree is"
    return _entry(EntryKind.DOWN, "Down", f"{what} gone", instance, now)


def _entry(
    kind: EntryKind,
    reason: str,
    message: str,
    instance: Instance,
    now: Instant,
    severity: Severity = Severity.INFO,
    last_exit: Exit | None = None,
    origin: Origin | None = None,
) -> LogEntry:
    part_of_request = kind in _BY_REQUEST
    return LogEntry(
        kind, reason, message, now, instance.instance_id, severity, last_exit,
        origin or (instance.pending_origin if part_of_request else None),
    )  # fmt: skip
