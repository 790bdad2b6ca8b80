"""Counters of an instance (failures, backoff, carried-out requests) its next deadline and a lost target."""

from __future__ import annotations

from hostmanager.values import replace

from hostmanager_server.core import entries, stability
from hostmanager_server.core.actions import Action
from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Exit, Instance, Outcome
from hostmanager_server.core.spec import RestartWhen, Target

# The shortest wait after a failed start, in s. Without backoff the core would try in a busy loop.
START_FAILED_RETRY = 0.1

# A main process that ends with success within BACKGROUND_WITHIN s, and leaves processes, counts as a program
# in the background. After BACKGROUND_LIMIT such runs in a row, no restart follows.
BACKGROUND_WITHIN = 5.0
BACKGROUND_LIMIT = 3


def count_failure(instance: Instance, now: Instant, at_least: float = 0.0) -> Instance:
    """Count a failure, and set the time of the next attempt.

    The attempt follows after the backoff, and after `at_least` s. A passive instance has no failures: its
    target becomes passive again.
    """
    wanted, standing = instance.wanted, instance.standing
    if wanted.target is Target.PASSIVE or instance.passive_tracking:
        return replace(instance, wanted=replace(wanted, target=Target.PASSIVE))
    fail_times = (*standing.fail_times, now)
    policy = instance.spec.restart
    once = wanted.job is not None and wanted.job.once
    if policy.when is RestartWhen.NEVER or once:
        instance = replace(instance, standing=replace(standing, fail_times=fail_times))
        return finish(instance, Outcome.FAILED)
    failures = standing.failures + 1
    standing = replace(standing, failures=failures, fail_times=fail_times)
    given_up = policy.give_up_after is not None and failures >= policy.give_up_after
    if given_up or standing.backgrounded >= BACKGROUND_LIMIT:
        return finish(replace(instance, standing=standing), Outcome.FAILED)
    retry_at = now.plus(max(policy.backoff.delay(failures), at_least))
    return replace(instance, standing=replace(standing, retry_at=retry_at))


def finish(instance: Instance, outcome: Outcome) -> Instance:
    """Record the outcome of an instance with the target up: no restart follows, and its job is done."""
    wanted = instance.wanted
    reached = outcome if wanted.target is Target.UP else None
    if wanted.job is not None:
        wanted = replace(wanted, job=None, target=wanted.job.target_after or wanted.target)
    return replace(instance, wanted=wanted, standing=replace(instance.standing, outcome=reached))


def count_end(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Report an exit without a stop request, and count a failure or a success."""
    if instance.observed.run is None and instance.observed.start_error:
        return count_failure(instance, now, at_least=START_FAILED_RETRY)
    last_exit = instance.observed.last_exit
    assert last_exit is not None
    actions.append(entries.exited(instance, last_exit, now))
    instance = _count_background(instance, last_exit, now, actions)
    if instance.succeeded(last_exit.status) and instance.spec.restart.when is not RestartWhen.ALWAYS:
        return finish(instance, Outcome.COMPLETED)
    return count_failure(instance, now)


def _count_background(instance: Instance, last_exit: Exit, now: Instant, actions: list[Action]) -> Instance:
    """Report a program that puts itself into the background, and count such runs in a row.

    The sign: the main process ends with success soon after the start, and leaves processes.
    """
    started = last_exit.started
    left_processes = instance.observed.run is not None and instance.spec.process is not None
    soon = started is not None and last_exit.at.mono - started.mono < BACKGROUND_WITHIN
    standing = instance.standing
    if left_processes and soon and last_exit.status.success:
        actions.append(entries.backgrounded(instance, now))
        standing = replace(standing, backgrounded=standing.backgrounded + 1)
    elif standing.backgrounded:
        standing = replace(standing, backgrounded=0)
    return replace(instance, standing=standing)


def count_excess(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Report a run that uses too much memory, and set the time of its restart.

    The restart of a run that has lasted for `reset_after` is planned, and follows at once. An earlier one
    counts as a failure: it follows after the backoff, and the daemon may give up.
    """
    run, standing = instance.observed.run, instance.standing
    assert run is not None
    lasted = now.mono - run.started.mono if run.started is not None else 0.0
    soon = lasted < instance.spec.restart.backoff.reset_after
    how = "so soon after the start, a failure" if soon else "restarting"
    actions.append(entries.memory_exceeded(instance, f"{run.excess}; {how}", now))
    instance = instance.with_run(replace(run, excess="", stop_cause=run.excess))
    if soon:
        return count_failure(instance, now)
    return replace(instance, standing=replace(standing, failures=0, retry_at=now))


def forgive_failures(instance: Instance, now: Instant) -> Instance:
    """Forget the failures of an instance that has been up until its deadline."""
    standing = instance.standing
    if standing.failures and standing.deadline is not None and now.mono >= standing.deadline.mono:
        return replace(instance, standing=replace(standing, failures=0, deadline=None))
    return instance


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


def next_deadline(instance: Instance) -> Instant | None:
    """Return when `decide` must be called again without an event, or None for never."""
    deadline, fail_times = instance.standing.deadline, instance.standing.fail_times
    deadlines = [deadline] if deadline is not None and not instance.observed.unobservable else []
    if (held := instance.wanted.hold) is not None and held.until is not None:
        deadlines.append(held.until)
    if fail_times:  # stability changes when the oldest failure leaves the window
        deadlines.append(fail_times[0].plus(stability.WINDOW))
    return min(deadlines, default=None)


def keep_running_if_target_lost(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Set the target of a running instance to up when its requested target was lost."""
    wanted = replace(instance.wanted, target_lost=False)
    if instance.observed.run is None or wanted.target is not Target.DOWN or instance.retired:
        return replace(instance, wanted=wanted)
    actions.append(entries.target_lost(instance, now))
    return replace(instance, wanted=replace(wanted, target=Target.UP))
