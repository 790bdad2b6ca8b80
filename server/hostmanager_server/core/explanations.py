"""Messages that explain the state of an instance to operators."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager_server.core import entries
from hostmanager_server.core.counters import BACKGROUND_LIMIT
from hostmanager_server.core.facts import describe, how_it_ended
from hostmanager_server.core.model import Instance, Outcome, UnmetDependency
from hostmanager_server.core.spec import RestartWhen, StartCondition

_CONDITIONS = {
    StartCondition.STARTED: "to start",
    StartCondition.READY: "to be up",
    StartCondition.COMPLETED: "to complete",
}


def backing_off(instance: Instance) -> str:
    """Return why a restart follows, and which attempt comes next."""
    attempt = instance.standing.failures + 1
    return f"{how_it_ended(instance)}; waiting to restart (attempt {attempt})"


def outcome(instance: Instance) -> str:
    """Return why no restart follows."""
    standing, policy = instance.standing, instance.spec.restart
    if standing.outcome is Outcome.COMPLETED:
        last_exit = instance.observed.last_exit
        return f"completed with {describe(last_exit.status) if last_exit is not None else 'code 0'}"
    if standing.backgrounded >= BACKGROUND_LIMIT:
        return f"gave up after {standing.backgrounded} runs in a row: {entries.IN_BACKGROUND}"
    how = how_it_ended(instance)
    if policy.when is RestartWhen.NEVER:
        return f"{how}; no restart, as the policy is never"
    return f"{how}; gave up after {standing.failures} failures in a row"


def unmet_dependencies(unmet: Iterable[UnmetDependency]) -> str:
    """Return what a start waits for, and the way out where only a request helps."""
    listed = (
        f"{each.instance_id} {_CONDITIONS[each.condition]}" + (f" ({each.hopeless})" if each.hopeless else "")
        for each in unmet
    )
    return f"waiting for {', '.join(listed)}"
