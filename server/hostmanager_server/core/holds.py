"""Holds: instances that the daemon must not start for a while, whatever their targets say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from hostmanager.values import replace

from hostmanager_server.core.actions import Action
from hostmanager_server.core.event_log import EntryKind, LogEntry
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Hold, Instance, Instances, State, with_hold
from hostmanager_server.core.origin import Origin

# The range of times that a text can show; a hold beyond has no end that matters.
_LATEST = datetime(9998, 1, 1, tzinfo=UTC).timestamp()


def hold_text(hold: Hold) -> str:
    """Return the end and the reason of a hold: `held until 2026-11-28 18:50 UTC (valve swap)`."""
    until = "until released"
    if hold.until is not None:
        until = f"until {datetime.fromtimestamp(min(hold.until.wall, _LATEST), UTC):%Y-%m-%d %H:%M} UTC"
    return f"held {until}" + (f" ({hold.reason})" if hold.reason else "")


def hold(
    instances: Instances, ids: Iterable[str], wanted: Hold, origin: Origin | None = None
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """Return the named instances held, and log entries; a new hold replaces an earlier one."""
    changed = {instance_id: with_hold(instances[instance_id], wanted) for instance_id in ids}
    text = hold_text(wanted)
    return changed, [_entry("Held", text, instance, wanted.since, origin) for instance in changed.values()]


def release(
    instances: Instances, ids: Iterable[str], now: Instant, origin: Origin | None = None
) -> tuple[dict[str, Instance], list[LogEntry]]:
    """Return those of the named instances that are held, released, and log entries."""
    changed = {
        instance_id: _released(instances[instance_id])
        for instance_id in ids
        if instances[instance_id].wanted.hold is not None
    }
    text = "released; the target is enforced again"
    return changed, [_entry("Released", text, instance, now, origin) for instance in changed.values()]


def expire(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """End a hold at its time."""
    held = instance.wanted.hold
    if held is None or held.until is None or now.mono < held.until.mono:
        return instance
    text = "the hold has ended at its time; the target is enforced again"
    actions.append(_entry("HoldEnded", text, instance, now))
    return _released(instance)


def recovered(hold_before: Hold, now: Instant) -> Hold:
    """Return the hold of an earlier daemon, perhaps of an earlier boot: the wall clock counts."""
    until = hold_before.until
    if until is None:
        return hold_before
    return replace(hold_before, until=now.plus(until.wall - now.wall))


def holds_of(instances: Instances) -> dict[str, Hold]:
    """Return the holds by instance id."""
    return {i.instance_id: i.wanted.hold for i in instances.values() if i.wanted.hold is not None}


def keep_holds(instances: Instances, holds: Mapping[str, Hold]) -> dict[str, Instance]:
    """Return the instances with these holds that are tracked."""
    return {name: with_hold(instances[name], held) for name, held in holds.items() if name in instances}


def why_not_up(instance: Instance | None) -> str:
    """Return why a request must not start the instance; empty if the request may, or if it runs."""
    if instance is None:
        return ""
    held, run = instance.wanted.hold, instance.observed.run
    running = run is not None and instance.should_run and instance.standing.state is not State.WAIT_DEAD
    return "" if held is None or running else hold_text(held)


def _released(instance: Instance) -> Instance:
    """Return the instance without its hold, and without a pending backoff."""
    standing = replace(instance.standing, retry_at=None)
    return replace(with_hold(instance, None), standing=standing)


def _entry(
    reason: str, text: str, instance: Instance, now: Instant, origin: Origin | None = None
) -> LogEntry:
    message = f"{instance.spec.full_name}: {text}"
    return LogEntry(EntryKind.INSTANCE, reason, message, now, instance.instance_id, origin=origin)
