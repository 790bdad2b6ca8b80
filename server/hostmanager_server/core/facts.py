"""Facts about an instance, folded from driver events.

`fold` changes no state: `decide` in core/lifecycle.py does.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import assert_never

from hostmanager_server.core.events import (
    Appeared,
    Degraded,
    DriverEvent,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    OutOfSight,
    Ready,
    ServiceObserved,
    Started,
    StartFailed,
    StopFailed,
)
from hostmanager_server.core.model import Exit, Instance, Observed, Phase, Run


def fold(instance: Instance, event: DriverEvent) -> Instance:
    """Record an event in the instance; ignore events of earlier runs."""
    match event:
        case ServiceObserved():
            return _observe(instance, replace(instance.observed, service=event.record, out_of_sight=""))
        case OutOfSight():
            return _observe(instance, replace(instance.observed, service=None, out_of_sight=event.why))
        case Appeared():
            return _appeared(instance, event)
    observed, run = instance.observed, instance.observed.run
    if run is None or event.run.number != run.number:
        return instance
    match event:
        case Started():
            if run.phase is Phase.ENDING or run.started is not None:
                return instance
            phase = Phase.RUNNING if run.phase is Phase.LAUNCHING else run.phase
            run = replace(run, phase=phase, pid=event.pid, started=event.at)
            spec = instance.spec
            if event.process is not None:
                if spec.process == run.workload:  # otherwise a reload changed the spec meanwhile, and wins
                    spec = replace(spec, process=event.process)
                run = replace(run, workload=event.process)
            observed = replace(observed, run=run, start_error="")
            return replace(instance, spec=spec, observed=observed)
        case Ready():
            if run.phase not in (Phase.LAUNCHING, Phase.RUNNING, Phase.DEGRADED):
                return instance
            return instance.with_run(replace(run, phase=Phase.READY, missing=""))
        case Degraded():
            if run.phase is Phase.ENDING:
                return instance
            if event.status is not None:
                why = f"a part of it ended with {describe(event.status)}"
                exit_ = Exit(event.status, event.at, run.stop_stage is not None, why, run.started, run.pid)
                observed = replace(observed, last_exit=exit_)
            run = replace(run, phase=Phase.DEGRADED, missing=event.why)
            return _observe(instance, replace(observed, run=run))
        case StopFailed():
            failed = replace(run, stop_error=event.why, stop_failures=run.stop_failures + 1)
            return instance.with_run(failed)
        case StartFailed():
            why = event.why or "the driver gave no reason"
            return _observe(instance, replace(observed, run=None, start_error=why))
        case Exited():
            if run.phase is Phase.ENDING:
                return instance
            exit_ = _exit_of(run, event.status, event.at)
            run = replace(run, phase=Phase.ENDING)
            return _observe(instance, replace(observed, run=run, last_exit=exit_))
        case Gone():
            if run.phase is not Phase.ENDING:  # an exit that nobody saw is an exit all the same
                exit_ = _exit_of(run, ExitStatus(), event.at)
                observed = replace(observed, last_exit=exit_)
            return _observe(instance, replace(observed, run=None))
    assert_never(event)


def _observe(instance: Instance, observed: Observed) -> Instance:
    return replace(instance, observed=observed)


def _appeared(instance: Instance, event: Appeared) -> Instance:
    workload = instance.spec.workload
    if instance.observed.run is not None or workload is None:
        return instance
    number = event.run.number
    run = Run(number, Phase.READY, workload, event.pid, event.at, adopted=True)
    return replace(
        instance,
        observed=replace(instance.observed, run=run, start_error=""),
        standing=replace(instance.standing, runs=max(instance.standing.runs, number)),
    )


def _exit_of(run: Run, status: ExitStatus, at: Instant) -> Exit:
    expected = run.stop_stage is not None
    how = describe(status)
    why = f"ended with {how} after being asked to" if expected else f"ended with {how}"
    return Exit(status, at, expected, why, run.started, run.pid)


def describe(status: ExitStatus) -> str:
    """How a run ended, in words: `code 3`, `signal SIGKILL`, or `status unknown`."""
    if status.code is not None:
        hint = {126: " (cannot be executed)", 127: " (command not found)"}.get(status.code, "")
        return f"code {status.code}{hint}"
    if status.signal is not None:
        return f"signal {signal_name(status.signal)}"
    return "status unknown"


def signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"SIG{signum}"
