"""Facts: what a driver's event tells about an instance.

Folding moves no instance from one state to another: that is `decide`, in core/lifecycle.py.
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
    Seen,
    Started,
    StartFailed,
    StopFailed,
)
from hostmanager_server.core.model import Exit, Instance, Phase, Run


def fold(instance: Instance, event: DriverEvent) -> Instance:
    """The instance with what the event tells. An event of another run than the present one is ignored."""
    match event:
        case Seen():
            return replace(instance, record=event.record, out_of_sight="")
        case OutOfSight():
            return replace(instance, record=None, out_of_sight=event.why)
        case Appeared():
            return _appeared(instance, event)
    run = instance.run
    if run is None or event.run.number != run.number:
        return instance
    match event:
        case Started():
            if run.phase is Phase.ENDING or run.started is not None:
                return instance
            phase = Phase.RUNNING if run.phase is Phase.LAUNCHING else run.phase
            started = replace(run, phase=phase, pid=event.pid, started=event.at)
            if event.process is None:
                return replace(instance, run=started, start_error="")
            spec = instance.spec
            if spec.process == run.workload:  # else the config was read again meanwhile, and its word counts
                spec = replace(spec, process=event.process)
            run = replace(started, workload=event.process)
            return replace(instance, spec=spec, run=run, start_error="")
        case Ready():
            if run.phase not in (Phase.LAUNCHING, Phase.RUNNING, Phase.DEGRADED):
                return instance
            return replace(instance, run=replace(run, phase=Phase.READY, missing=""))
        case Degraded():
            if run.phase is Phase.ENDING:
                return instance
            if event.status is not None:
                why = f"a part of it ended with {describe(event.status)}"
                exit_ = Exit(event.status, event.at, run.stop_stage is not None, why, run.started, run.pid)
                instance = replace(instance, last_exit=exit_)
            return replace(instance, run=replace(run, phase=Phase.DEGRADED, missing=event.why))
        case StopFailed():
            failed = replace(run, stop_error=event.why, stop_failures=run.stop_failures + 1)
            return replace(instance, run=failed)
        case StartFailed():
            return replace(instance, run=None, start_error=event.why or "for no reason that was given")
        case Exited():
            if run.phase is Phase.ENDING:
                return instance
            exit_ = _exit_of(run, event.status, event.at)
            return replace(instance, run=replace(run, phase=Phase.ENDING), last_exit=exit_)
        case Gone():
            if run.phase is not Phase.ENDING:  # an exit that nobody saw is an exit all the same
                return replace(instance, run=None, last_exit=_exit_of(run, ExitStatus(), event.at))
            return replace(instance, run=None)
    assert_never(event)


def _appeared(instance: Instance, event: Appeared) -> Instance:
    workload = instance.spec.workload
    if instance.run is not None or workload is None:
        return instance
    number = event.run.number
    run = Run(number, Phase.READY, workload, event.pid, event.at, adopted=True)
    return replace(instance, run=run, runs=max(instance.runs, number), start_error="")


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
