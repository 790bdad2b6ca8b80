"""The stop escalation: its steps, and what follows a failed stop."""

from __future__ import annotations

import signal

from hostmanager.values import replace

from hostmanager_server.core import entries
from hostmanager_server.core.actions import Action, Stop
from hostmanager_server.core.escalation import next_stage
from hostmanager_server.core.events import Instant
from hostmanager_server.core.facts import describe
from hostmanager_server.core.model import Instance, Run, State, StopStage
from hostmanager_server.core.moves import move
from hostmanager_server.core.signals import signal_name
from hostmanager_server.core.spec import ServiceSpec

# The shortest wait after a failed stop, in s. Without backoff the core would try in a busy loop.
STOP_FAILED_RETRY = 0.1


def stop(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Begin the stop, after the dependents that also stop."""
    if held_by := instance.observed.held_by:
        message = f"waiting for {', '.join(held_by)} to be down"
        return move(instance, instance.standing.state, "WaitingForDependents", message)
    return escalate(instance, now, actions)


def escalate(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Take the next step of the stop escalation: stop signal, TERM, KILL.

    Containers have one step: compose removes them.
    """
    run = instance.observed.run
    assert run is not None
    if isinstance(run.workload, ServiceSpec):
        return _remove_containers(instance, run, now, actions)
    stage, signum, grace = next_stage(run.stop_stage, instance.spec.stop)
    whole_tree = stage is not StopStage.SIGNAL
    actions.append(Stop(instance.run_key(), signum, whole_tree))
    if run.stop_stage is not StopStage.KILL:  # the event log has the first KILL only
        receiver = "the whole process tree" if whole_tree else f"pid {run.pid}" if run.pid else "the process"
        message = f"{signal_name(signum)} to {receiver}"
        actions.append(entries.stopping(instance, message, now, escalated=run.stop_stage is not None))
    reason = "Stopping" if run.stop_stage is None else "StopEscalated"
    message = f"sent {signal_name(signum)}; waiting for the whole process tree to end"
    instance = instance.with_run(replace(run, stop_stage=stage))
    return move(instance, State.WAIT_DEAD, reason, message, now.plus(grace))


def _remove_containers(instance: Instance, run: Run, now: Instant, actions: list[Action]) -> Instance:
    """Have compose stop and remove the containers.

    The engine kills containers that ignore the stop signal.
    """
    actions.append(Stop(instance.run_key(), signal.SIGKILL, whole_tree=True))
    message = "compose stops and removes the containers"
    if run.stop_stage is None:
        actions.append(entries.stopping(instance, message, now))
    instance = instance.with_run(replace(run, stop_stage=StopStage.REMOVE))
    return move(instance, State.WAIT_DEAD, "Stopping", message)


def clean_up(instance: Instance, now: Instant, actions: list[Action]) -> Instance:
    """Stop the rest of a tree after the end of its main process."""
    run, last_exit = instance.observed.run, instance.observed.last_exit
    assert run is not None
    assert last_exit is not None
    instance = instance.with_run(replace(run, stop_stage=StopStage.SIGNAL))
    instance = escalate(instance, now, actions)
    message = f"main process ended with {describe(last_exit.status)}; stopping the rest of its tree"
    return move(instance, State.WAIT_DEAD, "CleaningUp", message, instance.standing.deadline)


def retry_stop(instance: Instance, run: Run, now: Instant, actions: list[Action]) -> Instance:
    """Report a failed stop, and wait before the next attempt."""
    why = run.stop_error
    actions.append(entries.stop_failed(instance, why, now))
    delay = max(instance.spec.restart.backoff.delay(run.stop_failures), STOP_FAILED_RETRY)
    instance = instance.with_run(replace(run, stop_error=""))
    return move(instance, State.WAIT_DEAD, "StopFailed", why, now.plus(delay))
