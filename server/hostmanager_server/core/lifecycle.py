"""The life of an instance: every transition of its state machine.

`fold` (core/facts.py) turns an event into facts and moves nothing; `decide` looks at the facts and moves. So
a lost or doubled event does no harm, and deciding twice does nothing the second time. TRANSITIONS is what may
follow what: `decide` is held to it by the tests, and the diagram in docs/states.md is drawn from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from hostmanager_server.core import restart
from hostmanager_server.core.actions import Action, Kind, Launch, Note, Remove, Severity
from hostmanager_server.core.ending import clean_up, stop, stop_failed
from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.facts import describe, fold, signal_name
from hostmanager_server.core.history import as_found
from hostmanager_server.core.model import Instance, Phase, Run, State, StopStage, successor_of
from hostmanager_server.core.spec import START_TIMEOUT_RETRY, RestartWhen, ServiceSpec, Target

__all__ = ["TRANSITIONS", "Decision", "decide", "describe", "fold", "next_deadline", "signal_name"]

TRANSITIONS: Mapping[State, Mapping[State, str]] = {
    State.DOWN: {
        State.START: "target is up",
        State.START_AT: "target is up, after a failure",
        State.UP: "found running",
        State.UNKNOWN: "no command",
        State.WAIT_DEAD: "the engine is about to start it again",
    },
    State.START_AT: {
        State.START: "the moment has come",
        State.DOWN: "no longer wanted, or no command",
    },
    State.START: {
        State.WAIT_START: "launch",
        State.DOWN: "no longer wanted, or no command",
    },
    State.WAIT_START: {
        State.UP: "ready",
        State.START_AT: "start failed",
        State.WAIT_DEAD: "out of time, no longer wanted, or ended with others of its tree left",
        State.DOWN: "ended, and nothing more is wanted",
    },
    State.UP: {
        State.START_AT: "lost",
        State.WAIT_DEAD: "stop, or ended with others of its tree left",
        State.DOWN: "ended, and nothing more is wanted",
    },
    State.WAIT_DEAD: {State.DOWN: "the whole tree is gone"},
    State.UNKNOWN: {State.DOWN: "a command was found, or it runs"},
}


@dataclass(frozen=True, slots=True)
class Decision:
    instance: Instance
    actions: tuple[Action, ...] = ()


# --- the decision ----------------------------------------------------------------------------------------

# A start that failed is not tried again sooner than this, in s: with no backoff it would spin.
START_FAILED_RETRY = 0.1

# Every pass moves at most one state on, and no chain of states is longer than there are states.
_LONGEST_CHAIN = 2 * len(State)


def decide(instance: Instance, now: Instant) -> Decision:
    """What becomes of the instance, given its facts. Deciding again at once changes nothing more.

    One that is out of sight stays where it was last seen: what happened meanwhile is dealt with from there.
    """
    actions: list[Action] = []
    if instance.target_lost and not instance.out_of_sight:
        instance = as_found(instance, now, actions)
    for _ in range(_LONGEST_CHAIN):
        before = instance
        if not instance.out_of_sight:
            instance = _step(instance, now, actions)
        if instance is before or instance == before:
            break
    else:  # pragma: no cover - a cycle is a bug of this file, which the property tests look for
        raise AssertionError(f"{instance.spec.full_name} does not come to rest in {instance.state}")
    fails = restart.remember(instance.fail_times, now)
    if fails != instance.fail_times:
        instance = replace(instance, fail_times=fails)
    if instance.settled and instance.observed_generation != instance.generation:
        instance = replace(instance, observed_generation=instance.generation)
    if instance.passive_tracking and instance.target is not Target.PASSIVE and instance.settled:
        instance = replace(instance, target=Target.PASSIVE)  # as OCS: a request is carried out, not enforced
    gone = instance.run is None and instance.state in (State.DOWN, State.UNKNOWN)
    if instance.retired and gone and not instance.out_of_sight:
        actions.append(
            Note(Kind.INSTANCE, "Removed", "retired and down: off the list", now, instance.instance_id)
        )
        actions.append(Remove(instance.instance_id))
    return Decision(instance, tuple(actions))


def next_deadline(instance: Instance) -> Instant | None:
    """When `decide` is to be asked again although nothing happened; None: never."""
    deadlines = [instance.at] if instance.at is not None and not instance.out_of_sight else []
    if instance.fail_times:  # stability changes when the oldest failure leaves the window
        deadlines.append(instance.fail_times[0].plus(restart.WINDOW))
    return min(deadlines, default=None)


def _step(i: Instance, now: Instant, do: list[Action]) -> Instance:
    match i.state:
        case State.DOWN:
            return _down(i, now, do)
        case State.START_AT:
            return _start_at(i, now)
        case State.START:
            return _start(i, now, do)
        case State.WAIT_START:
            return _wait_start(i, now, do)
        case State.UP:
            return _up(i, now, do)
        case State.WAIT_DEAD:
            return _wait_dead(i, now, do)
        case State.UNKNOWN:
            return _unknown(i)
    assert_never(i.state)


def _down(i: Instance, now: Instant, do: list[Action]) -> Instance:
    if i.run is not None:
        do.append(Note(Kind.UP, "FoundRunning", f"{i.spec.full_name} was found running", now, i.instance_id))
        return _to_up(i, now, "found running")
    if i.successor is not None:
        do.append(Note(Kind.INSTANCE, "Reset", "the old one is down; starting afresh", now, i.instance_id))
        return successor_of(i, i.successor, i.target)
    if i.retired:
        return _to_down(i)
    if i.restart_wanted:
        return replace(i, restart_wanted=False, retry_at=None, finished=False)
    if i.spec.workload is None:
        return replace(i, state=State.UNKNOWN, at=None, reason="NotOperable", message=i.spec.problem)
    if i.leaving and i.record is not None and i.record.restarting:
        run = Run(i.runs + 1, Phase.READY, i.spec.workload, adopted=True)
        return stop(replace(i, run=run, runs=run.number), now, do)
    if not i.wanted:
        return _to_down(i)
    if i.retry_at is not None and now.mono < i.retry_at.mono:
        return _backing_off(i)
    return _about_to_start(i)


def _about_to_start(i: Instance) -> Instance:
    return replace(i, state=State.START, at=None, reason="Starting", message="about to start")


def _backing_off(i: Instance) -> Instance:
    return replace(
        i,
        state=State.START_AT,
        at=i.retry_at,
        reason="BackingOff",
        message=f"{_how_it_ended(i)}; waiting to restart (attempt {i.failures + 1})",
    )


def _start_at(i: Instance, now: Instant) -> Instance:
    if not i.wanted or i.spec.workload is None or i.run is not None:
        return _to_down(i)
    if i.at is None or now.mono >= i.at.mono or i.retry_at is None:
        return _about_to_start(i)
    return i


def _start(i: Instance, now: Instant, do: list[Action]) -> Instance:
    if not i.wanted or i.spec.workload is None or i.run is not None:
        return _to_down(i)
    if i.waiting_for:
        message = f"waiting for {', '.join(i.waiting_for)} to be up"
        return replace(i, reason="WaitingForDependencies", message=message)
    workload = i.spec.workload
    assert workload is not None
    number = i.runs + 1
    key = RunKey(i.instance_id, number)
    do.append(Note(Kind.LAUNCH, "Launching", f"starting {i.spec.full_name}", now, i.instance_id))
    do.append(Launch(key, i.spec))
    return replace(
        i,
        run=Run(number, Phase.LAUNCHING, workload),
        runs=number,
        restarts=i.restarts + (1 if i.retry_at is not None else 0),  # whoever asks for a start clears it
        retry_at=None,
        start_error="",
        state=State.WAIT_START,
        # How long compose takes, as it may have to pull an image, is for the driver to bound.
        at=None if isinstance(workload, ServiceSpec) else now.plus(i.spec.start_timeout),
        reason="Starting",
        message="started; not ready yet" if i.spec.ready is not None else "starting",
    )


def _wait_start(i: Instance, now: Instant, do: list[Action]) -> Instance:
    if i.run is None:
        if i.start_error:
            do.append(
                Note(Kind.START_FAILED, "StartFailed", i.start_error, now, i.instance_id, Severity.ERROR)
            )
        return _lost(i, now, do)
    if i.target is Target.PASSIVE and not i.leaving:
        return _to_up(replace(i, start_error=""), now, "running; only observed")
    if i.run.phase is Phase.ENDING:
        return clean_up(_failed(i, now, do), now, do)
    if i.leaving:
        return stop(i, now, do)
    if i.run.phase in (Phase.READY, Phase.DEGRADED):
        do.append(Note(Kind.UP, "Up", f"{i.spec.full_name} is up (pid {i.run.pid})", now, i.instance_id))
        return _to_up(i, now, "running")
    if i.at is None and i.run.phase is Phase.RUNNING:
        return replace(i, at=now.plus(i.spec.start_timeout), message="started; not ready yet")
    if i.at is not None and now.mono >= i.at.mono:
        why = f"not ready after {i.spec.start_timeout:g} s"
        do.append(Note(Kind.START_FAILED, "StartTimedOut", why, now, i.instance_id, Severity.ERROR))
        i = _count_failure(replace(i, start_error=why), now, at_least=START_TIMEOUT_RETRY)
        return i if i.target is Target.PASSIVE else stop(i, now, do)
    return i


def _up(i: Instance, now: Instant, do: list[Action]) -> Instance:
    if i.run is None:
        return _lost(i, now, do)
    if i.run.phase is Phase.ENDING:
        if i.target is Target.PASSIVE and not i.leaving:
            return i  # only observed: what it left behind is not ended, its end is waited for
        return clean_up(_failed(i, now, do), now, do)
    if i.leaving:
        if i.held_by:
            message = f"to be stopped once {', '.join(i.held_by)} is down"
            return replace(i, at=None, reason="WaitingForDependents", message=message)
        return stop(i, now, do)
    if i.run.phase is Phase.DEGRADED:
        return _degraded(i, now, do)
    if i.failures and i.at is not None and now.mono >= i.at.mono:
        return replace(i, failures=0, at=None)
    # Whole again, or wanted again before its turn to stop had come.
    if i.reason in ("Degraded", "WaitingForDependents"):
        return _to_up(i, now, "running")
    return i


def _degraded(i: Instance, now: Instant, do: list[Action]) -> Instance:
    """A part of it is lost: the rest goes on, and that part is started again as a lost instance would be."""
    assert i.run is not None
    missing = i.run.missing
    if missing:
        i = replace(i, run=replace(i.run, missing=""), at=None, reason="Degraded", message=missing)
        message = f"{i.spec.full_name}: {missing}"
        do.append(Note(Kind.EXIT, "Degraded", message, now, i.instance_id, Severity.WARNING))
        if i.wanted and i.spec.restart.when is not RestartWhen.NEVER:
            i = _count_failure(i, now)
            i = replace(i, at=i.retry_at, message=f"{missing}; waiting to start what is missing")
    elif i.at is not None and not i.wanted:
        i = replace(i, at=None)
    elif i.at is not None and (i.retry_at is None or now.mono >= i.retry_at.mono):  # due, or asked for
        message = f"starting what is missing of {i.spec.full_name}"
        do.append(Note(Kind.LAUNCH, "Launching", message, now, i.instance_id))
        do.append(Launch(i.run_key(), i.spec))
        i = replace(i, retry_at=None, at=None, restarts=i.restarts + 1)
    return i


def _wait_dead(i: Instance, now: Instant, do: list[Action]) -> Instance:
    if i.run is None:
        what = "its containers are" if i.spec.service is not None else "the whole process tree is"
        do.append(Note(Kind.DOWN, "Down", f"{what} gone", now, i.instance_id))
        return _to_down(i)
    if i.run.stop_error:
        return stop_failed(i, now, do)
    if i.at is not None and now.mono >= i.at.mono:
        return stop(i, now, do)
    if i.run.phase is Phase.ENDING and i.run.stop_stage is StopStage.SIGNAL:
        return stop(i, now, do)  # the signal went to the main process alone, which can pass it on no more
    return i


def _unknown(i: Instance) -> Instance:
    if i.spec.workload is not None or i.run is not None or i.successor is not None:
        return _to_down(i)
    if i.reason != "NotOperable" or i.message != i.spec.problem:
        return replace(i, reason="NotOperable", message=i.spec.problem)
    return i


# --- pieces of transitions ---------------------------------------------------------------------------------


def _to_up(i: Instance, now: Instant, message: str) -> Instance:
    forget = now.plus(i.spec.restart.backoff.reset_after) if i.failures else None
    return replace(i, state=State.UP, at=forget, reason="Running", message=message)


def _to_down(i: Instance) -> Instance:
    if i.finished:
        reason, message = "Finished", f"{_how_it_ended(i)}; not to be restarted"
    else:
        reason, message = "Stopped", _how_it_ended(i)
    return replace(i, state=State.DOWN, at=None, reason=reason, message=message)


def _how_it_ended(i: Instance) -> str:
    if i.start_error:
        return f"start failed: {i.start_error}"
    return f"last exit: {describe(i.last_exit.status)}" if i.last_exit is not None else "never started"


def _lost(i: Instance, now: Instant, do: list[Action]) -> Instance:
    """The run ended by itself, and nothing of its tree is left."""
    i = _failed(i, now, do)
    return _backing_off(i) if i.wanted and i.retry_at is not None else _to_down(i)


def _failed(i: Instance, now: Instant, do: list[Action]) -> Instance:
    """Draw the consequences of an end that nobody asked for."""
    if i.run is None and i.start_error:
        return _count_failure(i, now, at_least=START_FAILED_RETRY)
    exit_ = i.last_exit
    assert exit_ is not None
    message = f"{i.spec.full_name} {exit_.why}"
    do.append(Note(Kind.EXIT, "Exited", message, now, i.instance_id, Severity.WARNING, exit_))
    if exit_.status.success and i.spec.restart.when is not RestartWhen.ALWAYS:
        return replace(i, finished=i.target is Target.UP)
    return _count_failure(i, now)


def _count_failure(i: Instance, now: Instant, at_least: float = 0.0) -> Instance:
    """Remember a failure; it is tried again after the backoff, and no sooner than `at_least` s from now."""
    if i.target is Target.PASSIVE or i.passive_tracking:  # only observed, or a request that came to nothing
        return replace(i, target=Target.PASSIVE)
    fail_times = (*i.fail_times, now)
    if i.spec.restart.when is RestartWhen.NEVER:
        return replace(i, finished=i.target is Target.UP, fail_times=fail_times)
    failures = i.failures + 1
    delay = max(i.spec.restart.backoff.delay(failures), at_least)
    return replace(i, failures=failures, fail_times=fail_times, retry_at=now.plus(delay))
