"""The state machine of an instance: which state follows from its facts.

`fold` in core/facts.py turns driver events into facts and changes no state; `decide` reads the facts and
moves the state, with the moves of core/moves.py and the stops of core/stopping.py. So a lost or repeated
event does no harm, and a second call of `decide` changes nothing. The tests hold `decide` to the table in
core/transitions.py.
"""

from __future__ import annotations

from typing import assert_never

from hostmanager.values import replace

from hostmanager_server.core import counters, entries, explanations, holds
from hostmanager_server.core.actions import Action, Decision, Launch, Remove
from hostmanager_server.core.compose_runs import has_leftovers, report_renewal, restart_outdated
from hostmanager_server.core.conditions import CONDITIONS, condition_entries, condition_of
from hostmanager_server.core.counters import count_end, count_failure, update_counters, with_start_error
from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.liveness import why_unresponsive
from hostmanager_server.core.model import Instance, Phase, Run, State, StopStage, successor_of
from hostmanager_server.core.moves import about_to_start, back_off, move, to_down, to_up
from hostmanager_server.core.schedules import start_if_due
from hostmanager_server.core.spec import START_TIMEOUT_RETRY, RestartWhen, ServiceSpec, Target
from hostmanager_server.core.stopping import clean_up, escalate, retry_stop, stop

# Each pass moves an instance at most one state on, and no chain is longer than the number of states.
_LONGEST_CHAIN = 2 * len(State)


def decide(instance: Instance, now: Instant) -> Decision:
    """Move the instance to the state that its facts call for.

    A second call with the result changes nothing. An unobservable instance keeps its state until the driver
    can observe the instance again.
    """
    actions: list[Action] = []
    known = instance
    if instance.wanted.target_lost and not instance.observed.unobservable:
        instance = counters.keep_running_if_target_lost(instance, now, actions)
    instance = start_if_due(holds.expire(instance, now, actions), now, actions)
    for _ in range(_LONGEST_CHAIN):
        before = instance
        if not instance.observed.unobservable:
            instance = _step(instance, now, actions)
        if instance is before or instance == before:
            break
    else:  # pragma: no cover - a cycle is a bug of this module, which the property tests look for
        raise AssertionError(f"{instance.spec.full_name} does not come to rest in {instance.standing.state}")
    if (outcome := instance.standing.outcome) is not None and outcome is not known.standing.outcome:
        actions.append(entries.outcome(instance, explanations.outcome(instance), now))
    instance = update_counters(instance, now)
    gone = instance.observed.run is None and instance.standing.state in (State.DOWN, State.UNKNOWN)
    if instance.retired and gone and not instance.observed.unobservable:
        actions.append(entries.removed(instance, now))
        actions.append(Remove(instance.instance_id))
    return Decision(instance, tuple(actions))


# --- states that recovery and config changes assign ---------------------------------------------------------


def resume(instance: Instance, state: State) -> Instance:
    """Return a recovered instance in its former state, from which `decide` goes on.

    Recovery passes UP, WAIT_START (not ready yet) or WAIT_DEAD (being stopped).
    """
    reason = "Starting" if state is State.WAIT_START else instance.standing.reason
    return replace(instance, standing=replace(instance.standing, state=state, reason=reason))


def release_run(instance: Instance) -> Instance:
    """Release the run of the former service of an instance; the containers run on."""
    return replace(
        instance,
        observed=replace(instance.observed, run=None, service=None),
        standing=replace(instance.standing, state=State.DOWN, deadline=None),
    )


# --- one step in each state ---------------------------------------------------------------------------------


def _step(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    match instance.standing.state:
        case State.DOWN:
            return _down(instance, now, actions)
        case State.START_AT:
            return _start_at(instance, now)
        case State.START:
            return _start(instance, now, actions)
        case State.WAIT_START:
            return _wait_start(instance, now, actions)
        case State.UP:
            return _up(instance, now, actions)
        case State.WAIT_DEAD:
            return _wait_dead(instance, now, actions)
        case State.UNKNOWN:
            return _unknown(instance)
    assert_never(instance.standing.state)


def _down(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    wanted, spec = instance.wanted, instance.spec
    if instance.observed.run is not None:
        actions.append(entries.found_running(instance, now))
        if instance.too_young(now) and wanted.target is not Target.PASSIVE:
            return move(instance, State.WAIT_START, "Starting", "found running")
        return to_up(instance, now, "found running")
    if wanted.successor is not None:
        actions.append(entries.reset(instance, now))
        return successor_of(instance, wanted.successor, wanted.target)
    if instance.retired:
        return to_down(instance)
    if wanted.restart:
        standing = replace(instance.standing, retry_at=None, outcome=None)
        return replace(instance, wanted=replace(wanted, restart=False), standing=standing)
    if spec.workload is None:
        return move(instance, State.UNKNOWN, "NotOperable", spec.problem)
    if has_leftovers(instance):
        run = Run(instance.standing.runs + 1, Phase.READY, spec.workload, adopted=True)
        instance = replace(instance, standing=replace(instance.standing, runs=run.number))
        return escalate(instance.with_run(run), now, actions)
    if not instance.can_start:
        return to_down(instance)
    if instance.standing.retry_at is not None and now.mono < instance.standing.retry_at.mono:
        return back_off(instance)
    return about_to_start(instance)


def _start_at(instance: Instance, now: Instant) -> Instance:
    if not instance.can_start:
        return to_down(instance)
    standing = instance.standing
    if standing.deadline is None or now.mono >= standing.deadline.mono or standing.retry_at is None:
        return about_to_start(instance)
    return back_off(instance)


def _start(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    if not instance.can_start:
        return to_down(instance)
    spec, standing = instance.spec_to_run, instance.standing
    workload = spec.workload
    assert workload is not None
    if unmet := instance.observed.waiting_for:
        reason = "DependencyDown" if any(each.hopeless for each in unmet) else "WaitingForDependencies"
        return move(instance, State.START, reason, explanations.unmet_dependencies(unmet), standing.deadline)
    run = Run(standing.runs + 1, Phase.LAUNCHING, workload)
    actions.append(entries.launching(instance, now))
    actions.append(Launch(RunKey(instance.instance_id, run.number), spec))
    # A request for a start clears retry_at: only a launch after a failure counts as a restart.
    restarts = standing.restarts + (1 if standing.retry_at is not None else 0)
    instance = replace(
        instance,
        observed=replace(instance.observed, run=run, start_error=""),
        standing=replace(standing, runs=run.number, restarts=restarts, retry_at=None),
    )
    # The driver bounds a start by compose, which may have to pull an image first.
    deadline = None if isinstance(workload, ServiceSpec) else now.plus(spec.start_timeout)
    message = "started; not ready yet" if spec.ready is not None else "starting"
    return move(instance, State.WAIT_START, "Starting", message, deadline)


def _wait_start(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    instance = report_renewal(instance, now, actions)
    run, deadline, spec = instance.observed.run, instance.standing.deadline, instance.spec
    if run is None:
        if why := instance.observed.start_error:
            actions.append(entries.start_failed("StartFailed", why, instance, now))
        return _lost(instance, now, actions)
    if run.phase is not Phase.ENDING and not instance.should_stop:
        condition = condition_of(instance)
        if condition is not None and not condition.up:
            return _with_condition(instance, now, actions)
        if instance.standing.reason == "Paused":
            actions.extend(condition_entries(instance, None, now))
            return move(instance, State.WAIT_START, "Starting", "started; not ready yet")
    if instance.wanted.target is Target.PASSIVE and not instance.should_stop:
        return to_up(with_start_error(instance, ""), now, "running; passive")
    if run.phase is Phase.ENDING:
        return clean_up(count_end(instance, now, actions), now, actions)
    if instance.should_stop:
        return stop(instance, now, actions)
    if instance.standing.reason == "WaitingForDependents":  # the operator changed their mind
        instance = move(instance, State.WAIT_START, "Starting", "started; not ready yet")
        deadline = None
    if run.phase in (Phase.READY, Phase.DEGRADED):
        if instance.too_young(now):
            assert run.started is not None
            message = f"started; up after {spec.up_after:g} s"
            return move(instance, State.WAIT_START, "Starting", message, run.started.plus(spec.up_after))
        actions.append(entries.up(instance, run.pid, now))
        return to_up(instance, now, "running")
    if deadline is None and run.phase is Phase.RUNNING:
        deadline = now.plus(spec.start_timeout)
        return move(instance, State.WAIT_START, instance.standing.reason, "started; not ready yet", deadline)
    if deadline is not None and now.mono >= deadline.mono:
        why = f"not ready after {spec.start_timeout:g} s"
        actions.append(entries.start_failed("StartTimedOut", why, instance, now))
        instance = count_failure(with_start_error(instance, why), now, at_least=START_TIMEOUT_RETRY)
        return instance if instance.wanted.target is Target.PASSIVE else escalate(instance, now, actions)
    if run.phase is Phase.LAUNCHING and isinstance(run.workload, ServiceSpec):
        message = f"starting; waits for {run.waits_for}" if run.waits_for else "starting"
        return move(instance, State.WAIT_START, instance.standing.reason, message, deadline)
    return instance


def _up(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    instance = restart_outdated(report_renewal(instance, now, actions), now, actions)
    run, standing = instance.observed.run, instance.standing
    if run is None:
        return _lost(instance, now, actions)
    if run.phase is Phase.ENDING:
        if instance.wanted.target is Target.PASSIVE and not instance.should_stop:
            return counters.forgive_failures(instance, now)  # only observed: the rest of its tree may run on
        return clean_up(count_end(instance, now, actions), now, actions)
    if instance.should_stop:
        return stop(instance, now, actions)
    if why := why_unresponsive(instance):
        return _restart_unresponsive(instance, run, why, now, actions)
    if run.excess and instance.should_run and not (instance.held or instance.passive_tracking):
        return escalate(counters.count_excess(instance, now, actions), now, actions)
    if run.phase is Phase.DEGRADED:
        return _degraded(instance, run, now, actions)
    if (forgiven := counters.forgive_failures(instance, now)) is not instance:
        return forgiven
    # All parts run again, or the operator changed their mind before the stop began.
    if standing.reason in ("Degraded", "WaitingForDependents"):
        return to_up(instance, now, "running")
    return _with_condition(instance, now, actions)


def _restart_unresponsive(
    instance: Instance, run: Run, why: str, now: Instant, actions: list[Action]
) -> Instance:
    """Count a run that does not answer as a failure, and end the run."""
    actions.append(entries.unresponsive(instance, why, now))
    instance = count_failure(instance.with_run(replace(run, failed=why)), now)
    instance = escalate(instance, now, actions)
    return move(instance, State.WAIT_DEAD, "Unresponsive", f"{why}; stopping", instance.standing.deadline)


def _with_condition(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Report a run with a condition, such as a paused service, and the end of the condition."""
    condition, standing = condition_of(instance), instance.standing
    actions.extend(condition_entries(instance, condition, now))
    if condition is None:
        known = standing.reason in CONDITIONS
        return move(instance, State.UP, "Running", "running", standing.deadline) if known else instance
    state = State.UP if condition.up else State.WAIT_START
    deadline = standing.deadline if condition.up else None
    return move(instance, state, condition.reason, condition.message, deadline)


def _degraded(instance: Instance, run: Run, now: Instant, actions: list[Action]) -> Instance:
    """Restart the missing containers of a service after the backoff.

    The other containers run on.
    """
    standing = instance.standing
    if run.missing and instance.held and instance.should_run:  # the loss counts after the hold
        return move(instance, State.UP, "Degraded", f"{run.missing}; held")
    if missing := run.missing:
        actions.append(entries.degraded(instance, missing, now))
        instance = instance.with_run(replace(run, missing=""))
        instance = move(instance, State.UP, "Degraded", missing)
        if instance.should_run and instance.spec.restart.when is not RestartWhen.NEVER:
            instance = count_failure(instance, now)
            message = f"{missing}; waiting to start the missing containers"
            return move(instance, State.UP, "Degraded", message, instance.standing.retry_at)
    elif standing.deadline is not None and not instance.should_run:
        return replace(instance, standing=replace(standing, deadline=None))
    elif standing.deadline is not None and (  # due, or asked for
        standing.retry_at is None or now.mono >= standing.retry_at.mono
    ):
        actions.append(entries.launching(instance, now, missing_containers=True))
        actions.append(Launch(instance.run_key(), instance.spec))
        standing = replace(standing, retry_at=None, deadline=None, restarts=standing.restarts + 1)
        return replace(instance, standing=standing)
    return instance


def _wait_dead(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    run, deadline = instance.observed.run, instance.standing.deadline
    if run is None:
        actions.append(entries.down(instance, now))
        return to_down(instance)
    if run.stop_error:
        return retry_stop(instance, run, now, actions)
    if deadline is not None and now.mono >= deadline.mono:
        return escalate(instance, now, actions)
    if run.phase is Phase.ENDING and run.stop_stage is StopStage.SIGNAL:
        # The signal went to the main process alone, which can no longer pass it on.
        return escalate(instance, now, actions)
    return instance


def _unknown(instance: Instance) -> Instance:
    spec, standing = instance.spec, instance.standing
    if spec.workload or instance.observed.run or instance.wanted.successor:
        return to_down(instance)
    if (standing.reason, standing.message) != ("NotOperable", spec.problem):
        return move(instance, State.UNKNOWN, "NotOperable", spec.problem, standing.deadline)
    return instance


def _lost(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Handle an exit without a stop request, with the whole tree gone."""
    instance = count_end(instance, now, actions)
    if instance.should_run and instance.standing.retry_at is not None and not instance.held:
        return back_off(instance)
    return to_down(instance)
