"""Moves of an instance to a state, which core/lifecycle.py decides on."""

from __future__ import annotations

from hostmanager.values import replace

from hostmanager_server.core import explanations
from hostmanager_server.core.conditions import NO_CONTAINERS
from hostmanager_server.core.events import Instant
from hostmanager_server.core.facts import how_it_ended
from hostmanager_server.core.holds import hold_text
from hostmanager_server.core.model import Instance, Outcome, State
from hostmanager_server.core.schedules import next_run_text
from hostmanager_server.core.spec import Target


def move(
    instance: Instance, state: State, reason: str, message: str, deadline: Instant | None = None
) -> Instance:
    """Return the instance in a state, with its reason in words and its deadline."""
    standing = replace(instance.standing, state=state, reason=reason, message=message, deadline=deadline)
    return replace(instance, standing=standing)


def about_to_start(instance: Instance) -> Instance:
    """Return the instance just before its launch."""
    return move(instance, State.START, "Starting", "about to start")


def back_off(instance: Instance) -> Instance:
    """Return the instance waiting for the next attempt."""
    message = explanations.backing_off(instance)
    return move(instance, State.START_AT, "BackingOff", message, instance.standing.retry_at)


def to_up(instance: Instance, now: Instant, message: str) -> Instance:
    """Return the instance up; the deadline is the time at which its failures are forgotten."""
    reset_after = instance.spec.restart.backoff.reset_after
    deadline = now.plus(reset_after) if instance.standing.failures else None
    return move(instance, State.UP, "Running", message, deadline)


def to_down(instance: Instance) -> Instance:
    """Return the instance down, with how it ended."""
    if instance.should_run and instance.wants_no_container:
        return move(instance, State.DOWN, "Finished", NO_CONTAINERS)
    if (held := instance.wanted.hold) is not None and instance.should_run:
        message = f"{hold_text(held)}; {how_it_ended(instance)}"
        return move(instance, State.DOWN, "Held", message)
    coming = next_run_text(instance)
    if instance.should_run and instance.awaits_schedule:
        return move(instance, State.DOWN, "Scheduled", f"{coming or 'scheduled'}; {how_it_ended(instance)}")
    if (outcome := instance.standing.outcome) is not None:
        reason = "Finished" if outcome is Outcome.COMPLETED else "Failed"
        message = explanations.outcome(instance)
        later = coming and instance.wanted.target is Target.UP
        return move(instance, State.DOWN, reason, f"{message}; {coming}" if later else message)
    return move(instance, State.DOWN, "Stopped", how_it_ended(instance))
