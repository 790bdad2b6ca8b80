"""When an instance counts as failed, and when as recovered: the decision behind hooks.

This module is pure. A failure begins once and ends once, so each hook runs once for it, over any number of
crashes of the instance and restarts of the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager.values import dataclass, field, replace

from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance, Outcome, State
from hostmanager_server.core.spec import Target

CRASHES = 3  # failures in a row after which an instance that is not up has failed
STABLE = 30.0  # s without a sign of failure after which an instance that is up has recovered


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of an instance, until its end has been told.

    `since`: Unix time in s. `told`: the hook for the failure was started, or there is none. `recovered`: how
    the failure ended; empty while it lasts.
    """

    reason: str
    message: str
    since: float
    told: bool = False
    recovered: str = ""


def sign_of_failure(instance: Instance) -> tuple[str, str] | None:
    """Return why the instance counts as failed now, as a word and a sentence; None if it does not."""
    standing, service = instance.standing, instance.observed.service
    if instance.wanted.target is not Target.UP or instance.retired:
        return None
    if standing.outcome is Outcome.FAILED:
        return "GaveUp", standing.message
    if standing.failures >= CRASHES and instance.next_action is not State.UP:
        return "CrashLoop", standing.message
    if service is not None and service.unhealthy_replicas:
        return "Unhealthy", standing.message
    return None


def end_of_failure(instance: Instance | None, calm: float) -> str:
    """Return how a failure has ended; empty while it lasts.

    `calm`: time in s for which the instance has been up without a sign of failure.
    """
    if instance is None:
        return "Removed"
    if instance.retired or instance.wanted.target is not Target.UP:
        return "TargetDown"
    if instance.standing.outcome is Outcome.COMPLETED:
        return "Finished"
    return "Up" if instance.next_action is State.UP and calm >= STABLE else ""


@dataclass(slots=True)
class FailureWatch:
    """The failures of all instances, and what remains to be told about them."""

    failures: dict[str, Failure] = field(default_factory=dict)
    _disturbed: dict[str, float] = field(default_factory=dict)  # last sign of failure, monotonic

    def observe(self, instance_id: str, instance: Instance | None, now: Instant) -> None:
        """Compare an instance with what is known about it; None for one that is gone."""
        if instance is not None and not instance.wanted.enforced:
            return  # the manager is stopped: nothing fails, and nothing recovers
        sign = None if instance is None else sign_of_failure(instance)
        known = self.failures.get(instance_id)
        if sign is not None or instance is None or instance.next_action is not State.UP:
            self._disturbed[instance_id] = now.mono
        if sign is not None:
            if known is None:
                self.failures[instance_id] = Failure(*sign, since=now.wall)
            elif known.recovered or not known.told:
                self.failures[instance_id] = replace(known, reason=sign[0], message=sign[1], recovered="")
        elif known is not None and not known.recovered:
            calm = now.mono - self._disturbed.setdefault(instance_id, now.mono)
            if end := end_of_failure(instance, calm):
                self._end(instance_id, replace(known, recovered=end))
        if instance_id not in self.failures:
            self._disturbed.pop(instance_id, None)

    def _end(self, instance_id: str, failure: Failure) -> None:
        if failure.told:
            self.failures[instance_id] = failure
        else:  # the failure ended before its hook started
            del self.failures[instance_id]

    def told(self, instance_id: str) -> None:
        """Note that the begin, or the end, of a failure has been told."""
        failure = self.failures[instance_id]
        if failure.recovered:
            del self.failures[instance_id]
            self._disturbed.pop(instance_id, None)
        else:
            self.failures[instance_id] = replace(failure, told=True)

    def untold(self) -> list[str]:
        """Return the ids of failures whose begin or end must be told."""
        return [each for each, failure in self.failures.items() if failure.recovered or not failure.told]

    def next_end(self, instances: Mapping[str, Instance]) -> float | None:
        """Return the monotonic time at which a failure may end without another event."""
        ends = [
            self._disturbed.get(each, 0.0) + STABLE
            for each, failure in self.failures.items()
            if not failure.recovered
            and each in instances
            and instances[each].next_action is State.UP
            and sign_of_failure(instances[each]) is None
        ]
        return min(ends, default=None)
