"""The history of an instance: what the journal keeps for the next daemon."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.values import dataclass, replace

from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.lifecycle import resume
from hostmanager_server.core.model import Exit, Instance, Instances, Job, Outcome, Run, State
from hostmanager_server.core.spec import Management, RestartWhen, Schedule, Target


@dataclass(frozen=True, slots=True)
class History:
    """Counters and exits of an instance, named like the fields of the instance.

    A history belongs to one agent class and one kind of management.
    """

    agent_class: str
    management: Management
    runs: int = 0
    restarts: int = 0
    failures: int = 0
    fail_times: tuple[Instant, ...] = ()
    last_exit: Exit | None = None
    start_error: str = ""
    retry_at: Instant | None = None
    outcome: Outcome | None = None
    started_once: bool = False  # a run with `restart: never` has begun: no second run
    job: Job | None = None
    next_run: float | None = None  # of the `schedule`
    schedule: Schedule | None = None
    restart_of: int = 0  # the number of the live run that an operator asked to restart; 0: none


def history_of(instance: Instance) -> History | None:
    """Return the history worth keeping, or None after a plain first start."""
    if instance.retired:
        return None
    observed, standing, run = instance.observed, instance.standing, instance.observed.run
    started_once = _started_once(instance)
    restart_of = run.number if instance.wanted.restart and run is not None else 0
    counted = standing.restarts or standing.failures or standing.fail_times or standing.outcome
    ended = observed.last_exit or observed.start_error or instance.wanted.job or observed.next_run
    if not (counted or ended or started_once or restart_of):
        return None  # the runtime record holds the number of the run
    return History(
        agent_class=instance.spec.agent_class,
        management=instance.wanted.management,
        runs=standing.runs,
        restarts=standing.restarts,
        failures=standing.failures,
        fail_times=standing.fail_times,
        last_exit=observed.last_exit,
        start_error=observed.start_error,
        retry_at=standing.retry_at,
        outcome=standing.outcome,
        started_once=started_once,
        job=instance.wanted.job,
        next_run=observed.next_run,
        schedule=instance.spec.schedule,
        restart_of=restart_of,
    )


def histories_of(instances: Instances, ids: Iterable[str]) -> dict[str, History | None]:
    """Return the histories of the named instances; None for an unknown instance."""
    return {
        instance_id: history_of(instance) if (instance := instances.get(instance_id)) is not None else None
        for instance_id in ids
    }


def _started_once(instance: Instance) -> bool:
    """Return whether a native process is running that must not run again: `restart: never`, or a job.

    Its runtime record disappears when the process ends, and the journal has the end a moment later. Without
    this mark, the successor of a daemon that dies in between would run the process a second time.
    """
    job = instance.wanted.job
    once = instance.spec.restart.when is RestartWhen.NEVER or (job is not None and job.once)
    run = instance.observed.run
    return once and instance.spec.process is not None and run is not None and run.started is not None


def adds_nothing(known: History, history: History) -> bool:
    """Return whether two histories differ at most in outdated failures."""
    if history.fail_times and history.fail_times[-1:] != known.fail_times[-1:]:
        return False
    return replace(history, fail_times=known.fail_times) == known


def history_differs(before: Instance, after: Instance) -> bool:
    """Return whether the history of an instance changed.

    Failures that became too old to count make no difference: every daemon drops them by their times.
    """
    old, new = before.standing, after.standing
    if old.fail_times is not new.fail_times and new.fail_times[-1:] != old.fail_times[-1:]:
        return bool(new.fail_times)
    return (
        before.observed.last_exit is not after.observed.last_exit
        or old.failures != new.failures
        or old.restarts != new.restarts
        or old.retry_at != new.retry_at
        or old.outcome is not new.outcome
        or before.wanted.restart is not after.wanted.restart
        or before.wanted.job != after.wanted.job
        or before.observed.next_run != after.observed.next_run
        or before.observed.start_error != after.observed.start_error
        or before.retired is not after.retired
        or _started_once(before) is not _started_once(after)
    )


def with_history(instance: Instance, history: History, now: Instant) -> Instance:
    """Return the instance with the history kept by the previous daemon.

    Another class or management voids the history. New observations win over the history.
    """
    spec = instance.spec
    if instance.retired or (spec.agent_class, instance.wanted.management) != (
        history.agent_class,
        history.management,
    ):
        return instance
    observed, standing = instance.observed, instance.standing
    observed = replace(observed, last_exit=observed.last_exit or history.last_exit)
    if spec.schedule is not None and spec.schedule == history.schedule:
        observed = replace(observed, next_run=history.next_run)
    standing = replace(
        standing,
        runs=max(standing.runs, history.runs),
        restarts=standing.restarts + history.restarts,
        failures=standing.failures + history.failures,
        fail_times=tuple(sorted({*history.fail_times, *standing.fail_times})),
    )
    wanted = instance.wanted
    if history.job is not None:
        up = wanted.target is Target.UP or history.job.target_after is wanted.target
        wanted = replace(wanted, target=Target.UP, job=history.job) if up else wanted
    instance = replace(instance, wanted=wanted, observed=observed, standing=standing)
    if observed.run is not None:
        return _running_with_history(instance, observed.run, history, now)
    if standing.state is not State.DOWN:
        return instance  # the run ended while no daemon ran, and `decide` handles the exit
    return _down_with_history(instance, history, now)


def _running_with_history(instance: Instance, run: Run, history: History, now: Instant) -> Instance:
    wanted, standing = instance.wanted, instance.standing
    if standing.failures and standing.state is State.UP:
        standing = replace(standing, deadline=now.plus(instance.spec.restart.backoff.reset_after))
    if run.number == history.restart_of and wanted.target is Target.UP:
        wanted = replace(wanted, restart=True)
    return replace(instance, wanted=wanted, standing=standing)


def _down_with_history(instance: Instance, history: History, now: Instant) -> Instance:
    observed, standing = instance.observed, instance.standing
    wanted_up = instance.wanted.target is Target.UP
    if history.started_once and wanted_up:
        why = "ended together with its daemon, which could not record the exit status"
        observed = replace(observed, last_exit=Exit(ExitStatus(), now, False, why))
        return resume(replace(instance, observed=observed), State.UP)
    outcome = history.outcome if wanted_up else None
    return replace(
        instance,
        observed=replace(observed, start_error=observed.start_error or history.start_error),
        standing=replace(standing, retry_at=history.retry_at, outcome=outcome),
    )
