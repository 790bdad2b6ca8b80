"""How a run is ended: ever more insistently, until nothing of it is left."""

from __future__ import annotations

import signal
from dataclasses import replace

from hostmanager_server.core.actions import Action, Kind, Note, Severity, Stop
from hostmanager_server.core.events import Instant
from hostmanager_server.core.facts import describe, signal_name
from hostmanager_server.core.model import Instance, State, StopStage
from hostmanager_server.core.spec import ServiceSpec

# A stop that failed is not tried again sooner than this, in s: with no backoff it would spin.
STOP_FAILED_RETRY = 0.1

# How often, in s, KILL is repeated on a tree that the kernel holds on to (uninterruptible sleep, forks).
KILL_REPEAT = 5.0


def clean_up(i: Instance, now: Instant, do: list[Action]) -> Instance:
    """The main process has ended, others of its tree live: end those before anything else."""
    assert i.run is not None
    i = replace(i, run=replace(i.run, stop_stage=StopStage.SIGNAL))
    assert i.last_exit is not None
    message = f"main process ended with {describe(i.last_exit.status)}; ending what it left behind"
    return replace(stop(i, now, do), reason="CleaningUp", message=message)


def stop(i: Instance, now: Instant, do: list[Action]) -> Instance:
    """Send the next, stronger signal."""
    assert i.run is not None
    if isinstance(i.run.workload, ServiceSpec):
        return _remove(i, now, do)
    policy = i.spec.stop
    stage, signum, grace = _next_stage(i.run.stop_stage, policy.signal, policy.grace, policy.term_grace)
    whole_tree = stage is not StopStage.SIGNAL
    do.append(Stop(i.run_key(), signum, whole_tree))
    if i.run.stop_stage is not StopStage.KILL:  # KILL is repeated in silence until the kernel lets go
        who = "the whole process tree" if whole_tree else f"pid {i.run.pid}" if i.run.pid else "the process"
        severity = Severity.INFO if i.run.stop_stage is None else Severity.WARNING
        do.append(
            Note(Kind.STOP, "Stopping", f"{signal_name(signum)} to {who}", now, i.instance_id, severity)
        )
    return replace(
        i,
        run=replace(i.run, stop_stage=stage),
        state=State.WAIT_DEAD,
        at=now.plus(grace),
        reason="Stopping" if i.run.stop_stage is None else "StopEscalated",
        message=f"sent {signal_name(signum)}; waiting for the whole process tree to end",
    )


def _remove(i: Instance, now: Instant, do: list[Action]) -> Instance:
    """Have the containers stopped and removed. The engine kills what does not stop in time; the driver says
    what comes of it."""
    assert i.run is not None
    do.append(Stop(i.run_key(), signal.SIGKILL, whole_tree=True))
    message = "compose stops and removes its containers"
    if i.run.stop_stage is None:
        do.append(Note(Kind.STOP, "Stopping", message, now, i.instance_id))
    run = replace(i.run, stop_stage=StopStage.REMOVE)
    return replace(i, run=run, state=State.WAIT_DEAD, at=None, reason="Stopping", message=message)


def stop_failed(i: Instance, now: Instant, do: list[Action]) -> Instance:
    assert i.run is not None
    run = i.run
    do.append(Note(Kind.STOP, "StopFailed", run.stop_error, now, i.instance_id, Severity.ERROR))
    delay = max(i.spec.restart.backoff.delay(run.stop_failures), STOP_FAILED_RETRY)
    return replace(
        i, run=replace(run, stop_error=""), at=now.plus(delay), reason="StopFailed", message=run.stop_error
    )


def _next_stage(
    stage: StopStage | None, first: int, grace: float, term_grace: float
) -> tuple[StopStage, int, float]:
    if stage is None and first not in (signal.SIGTERM, signal.SIGKILL):
        return StopStage.SIGNAL, first, grace
    if stage is None and first == signal.SIGTERM:
        return StopStage.TERM, signal.SIGTERM, grace
    if stage is StopStage.SIGNAL:
        return StopStage.TERM, signal.SIGTERM, term_grace
    return StopStage.KILL, signal.SIGKILL, KILL_REPEAT
