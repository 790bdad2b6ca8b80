"""Counters of an instance: failures, backoff and carried-out requests."""

from __future__ import annotations

from dataclasses import replace

from hostmanager_server.core import entries, stability
from hostmanager_server.core.actions import Action
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Instance
from hostmanager_server.core.spec import RestartWhen, Target

# The shortest wait after a failed start, in s. Without backoff the core would try in a busy loop.
START_FAILED_RETRY = 0.1


def count_failure(instance: Instance, now: Instant, at_least: float = 0.0) -> Instance:
    """Count a failure, and set the time of the next attempt.

    The attempt follows after the backoff, and after `at_least` s. A passive instance has no failures: its
    target becomes passive again.
    """
    wanted, standing = instance.wanted, instance.standing
    if wanted.target is Target.PASSIVE or instance.passive_tracking:
        return replace(instance, wanted=replace(wanted, target=Target.PASSIVE))
    fail_times = (*standing.fail_times, now)
    if instance.spec.restart.when is RestartWhen.NEVER:
        return finish(instance, fail_times)
    failures = standing.failures + 1
    retry_at = now.plus(max(instance.spec.restart.backoff.delay(failures), at_least))
    standing = replace(standing, failures=failures, fail_times=fail_times, retry_at=retry_at)
    return replace(instance, standing=standing)


def finish(instance: Instance, fail_times: tuple[Instant, ...]) -> Instance:
    """Mark an instance as finished if its target is up: no restart follows."""
    finished = instance.wanted.target is Target.UP
    return replace(instance, standing=replace(instance.standing, finished=finished, fail_times=fail_times))


def count_end(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Report an exit without a stop request, and count a failure or a success."""
    if instance.observed.run is None and instance.observed.start_error:
        return count_failure(instance, now, at_least=START_FAILED_RETRY)
    last_exit = instance.observed.last_exit
    assert last_exit is not None
    actions.append(entries.exited(instance, last_exit, now))
    if last_exit.status.success and instance.spec.restart.when is not RestartWhen.ALWAYS:
        return finish(instance, instance.standing.fail_times)
    return count_failure(instance, now)


def with_start_error(instance: Instance, why: str) -> Instance:
    """Return the instance with the reason of a failed start."""
    return replace(instance, observed=replace(instance.observed, start_error=why))


def update_counters(instance: Instance, now: Instant) -> Instance:
    """Forget old failures, and mark carried-out requests as observed."""
    wanted, standing = instance.wanted, instance.standing
    fail_times = stability.remember(standing.fail_times, now)
    if fail_times != standing.fail_times:
        standing = replace(standing, fail_times=fail_times)
    if instance.settled and standing.observed_generation != wanted.generation:
        standing = replace(standing, observed_generation=wanted.generation)
    if instance.passive_tracking and wanted.target is not Target.PASSIVE and instance.settled:
        # As in OCS, the daemon carries out a request, and does not enforce the target afterwards.
        wanted = replace(wanted, target=Target.PASSIVE)
    if standing is instance.standing and wanted is instance.wanted:
        return instance
    return replace(instance, wanted=wanted, standing=standing)
