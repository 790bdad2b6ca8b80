"""Facts about an instance, folded from driver events.

`fold` changes no state: `decide` in core/lifecycle.py does.
"""

from __future__ import annotations

from typing import assert_never

from hostmanager.values import replace

from hostmanager_server.core.events import (
    Appeared,
    Cleared,
    Degraded,
    DriverEvent,
    Exited,
    ExitStatus,
    Gone,
    Instant,
    MemoryExceeded,
    Outdated,
    ProbeAnswered,
    Ready,
    Renewed,
    ServiceObserved,
    StartDelayed,
    Started,
    StartFailed,
    StopFailed,
    Unobservable,
)
from hostmanager_server.core.model import Exit, Instance, Observed, Phase, Run
from hostmanager_server.core.signals import signal_name
from hostmanager_server.core.sizes import size_words

# The events of a run that the core launched or recovered.
_OwnRunEvent = (
    Started | StartFailed | StartDelayed | Renewed | Ready | Exited | Gone | Degraded | Outdated | Cleared
    | StopFailed | ProbeAnswered | MemoryExceeded
)  # fmt: skip


def fold(instance: Instance, event: DriverEvent) -> Instance:
    """Record an event in the instance; ignore events of earlier runs."""
    match event:
        case ServiceObserved():
            return _observe(instance, replace(instance.observed, service=event.status, unobservable=""))
        case Unobservable():
            return _observe(instance, replace(instance.observed, service=None, unobservable=event.why))
        case Appeared():
            return _appeared(instance, event)
    run = instance.observed.run
    if run is None or event.run.number != run.number:
        return instance
    return _fold_run_event(instance, run, event)


def _fold_run_event(instance: Instance, run: Run, event: _OwnRunEvent) -> Instance:
    observed, ending = instance.observed, run.phase is Phase.ENDING
    match event:
        case Started() if not ending and run.started is None:
            phase = Phase.RUNNING if run.phase is Phase.LAUNCHING else run.phase
            run = replace(run, phase=phase, pid=event.pid, started=event.at)
            run = replace(run, unlimited=event.unlimited, notice=event.unlimited)
            spec = instance.spec
            if event.process is not None:
                if spec.process == run.workload:  # otherwise a reload changed the spec meanwhile, and wins
                    spec = replace(spec, process=event.process)
                run = replace(run, workload=event.process)
            return replace(instance, spec=spec, observed=replace(observed, run=run, start_error=""))
        case Ready() if run.phase in (Phase.LAUNCHING, Phase.RUNNING, Phase.DEGRADED):
            return instance.with_run(replace(run, phase=Phase.READY, missing=""))
        case Degraded() if not ending:
            return _degraded(instance, run, event)
        case ProbeAnswered() if not ending:
            return instance.with_run(replace(run, answer=event.answer))
        case StartDelayed() | Renewed() | Outdated() | MemoryExceeded():
            return instance.with_run(_with_notice(run, event))
        case Cleared():
            return _observe(instance, replace(observed, run=None))
        case StopFailed():
            failed = replace(run, stop_error=event.why, stop_failures=run.stop_failures + 1)
            return instance.with_run(failed)
        case StartFailed():
            stopped = run.stop_stage is not None  # a start that ends on request has not failed
            why = "" if stopped else event.why or "the driver gave no reason"
            return _observe(instance, replace(observed, run=None, start_error=why))
        case Exited() if not ending:
            exit_ = _exit_of(run, event.status, event.at, event.last_output)
            return _observe(
                instance, replace(observed, run=replace(run, phase=Phase.ENDING), last_exit=exit_)
            )
        case Gone():
            if not ending:  # the driver missed the exit, which counts all the same
                observed = replace(observed, last_exit=_exit_of(run, ExitStatus(), event.at))
            return _observe(instance, replace(observed, run=None))
        case Started() | Ready() | Degraded() | Exited() | ProbeAnswered():
            return instance  # the event repeats a fact, or arrived late
    assert_never(event)


def _with_notice(run: Run, event: StartDelayed | Renewed | Outdated | MemoryExceeded) -> Run:
    match event:
        case StartDelayed():
            return replace(run, waits_for=event.why)
        case Renewed():
            return replace(run, renewed=event.why)
        case Outdated():
            return replace(run, outdated=event.why)
        case MemoryExceeded():
            used, limit = size_words(event.memory), size_words(event.limit)
            return replace(run, excess=f"uses {used} of memory, and 'restart-above' is {limit}")


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


def _degraded(instance: Instance, run: Run, event: Degraded) -> Instance:
    observed = instance.observed
    if event.status is not None:
        why = f"a container ended with {describe(event.status)}"
        exit_ = Exit(event.status, event.at, run.stop_stage is not None, why, run.started, run.pid)
        observed = replace(observed, last_exit=exit_)
    run = replace(run, phase=Phase.DEGRADED, missing=event.why)
    return _observe(instance, replace(observed, run=run))


def _exit_of(run: Run, status: ExitStatus, at: Instant, last_output: str = "") -> Exit:
    expected = run.stop_stage is not None and not run.failed
    how = describe(status)
    why = f"ended with {how} after a stop request" if expected else f"ended with {how}"
    if run.failed:
        why = f"{run.failed}; ended with {how}"
    if run.stop_cause:
        why = f"ended with {how}, stopped by the daemon: the run {run.stop_cause}"
    return Exit(status, at, expected, why, run.started, run.pid, last_output, run.failed, run.stop_cause)


def describe(status: ExitStatus) -> str:
    """Return an exit status in words: `code 3`, `signal SIGSEGV (core dumped)`, `status unknown`."""
    if status.code is not None:
        if status.out_of_memory:
            return f"code {status.code} (out of memory)"
        hint = {126: " (cannot be executed)", 127: " (command not found)"}.get(status.code, "")
        return f"code {status.code}{hint}"
    if status.signal is not None:
        notes = ["out of memory"] if status.out_of_memory else []
        notes += [f"limit '{status.limit}' reached"] if status.limit else []
        notes += ["core dumped"] if status.core_dumped else []
        return f"signal {signal_name(status.signal)}" + (f" ({', '.join(notes)})" if notes else "")
    return "status unknown"


def how_it_ended(instance: Instance) -> str:
    """Return the last failed start or exit in words, or `never started`."""
    service, last_exit = instance.observed.service, instance.observed.last_exit
    engine = "; the engine restarts the container" if service is not None and service.restarting else ""
    if instance.observed.start_error:
        return f"start failed: {instance.observed.start_error}{engine}"
    if last_exit is not None and last_exit.failed:
        return f"{last_exit.failed}{engine}"
    if last_exit is not None and last_exit.cause:
        return f"stopped: the run {last_exit.cause.replace('uses', 'used', 1)}"
    return (f"last exit: {describe(last_exit.status)}" if last_exit is not None else "never started") + engine
