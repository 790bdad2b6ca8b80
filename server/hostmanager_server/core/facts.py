"""Facts: what a driver's event tells about an instance.

Folding moves no instance from one state to another: that is `decide`, in core/lifecycle.py.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import assert_never

from hostmanager_server.core.events import (
    DriverEvent,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    Ready,
    Started,
    StartFailed,
)
from hostmanager_server.core.model import Exit, Instance, Phase, Run


def fold(instance: Instance, event: DriverEvent) -> Instance:
    """The instance with what the event tells. An event of another run than the present one is ignored."""
    run = instance.run
    if run is None or event.run.number != run.number:
        return instance
    match event:
        case Started():
            if run.phase is Phase.ENDING or run.started is not None:
                return instance
            phase = Phase.RUNNING if run.phase is Phase.LAUNCHING else run.phase
            run = replace(run, phase=phase, pid=event.pid, started=event.at)
            return replace(instance, run=run, start_error="")
        case Ready():
            if run.phase not in (Phase.LAUNCHING, Phase.RUNNING):
                return instance
            return replace(instance, run=replace(run, phase=Phase.READY))
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
