"""The judgement whether an instance is failing."""

from __future__ import annotations

from hostmanager_server.core.model import NOT_YET_OBSERVED, Instance, Outcome, State
from hostmanager_server.core.spec import Target

# States with the cause outside the target: containers that run badly, a stop that compose cannot carry out.
_BAD_REASONS = frozenset({"StopFailed", "Paused", "Unhealthy", "Degraded"})


def is_failing(instance: Instance) -> bool:
    """Return whether something is wrong that an operator may have to look at.

    A start or a stop on the way is not failing, nor is an instance that is down as requested. After a
    failure, an instance is failing until it is up again.
    """
    observed, standing = instance.observed, instance.standing
    if observed.unobservable:
        return observed.unobservable != NOT_YET_OBSERVED
    if standing.reason in _BAD_REASONS:
        return True
    wanted = instance.wanted
    if wanted.target is not Target.UP or not wanted.enforced or instance.retired:
        return False
    if not instance.operable or standing.outcome is Outcome.FAILED or standing.reason == "DependencyDown":
        return True
    return standing.failures > 0 and standing.state is not State.UP
