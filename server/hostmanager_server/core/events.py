"""Events: what drivers see, as facts for the core. A lost or doubled one does no harm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Instant:
    """A moment on two clocks: `mono` (s, CLOCK_BOOTTIME) to reckon with, `wall` (s since 1970) to show."""

    mono: float
    wall: float

    def plus(self, seconds: float) -> Instant:
        return Instant(self.mono + seconds, self.wall + seconds)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a run ended: an exit code (0 to 255), a signal number, or neither when the kernel cannot tell."""

    code: int | None = None
    signal: int | None = None

    @property
    def success(self) -> bool:
        return self.code == 0


@dataclass(frozen=True, slots=True)
class RunKey:
    """One run of one instance. `number` counts launches; an event of an older run is ignored."""

    instance_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Started:
    """The agent was exec'ed."""

    run: RunKey
    pid: int
    at: Instant


@dataclass(frozen=True, slots=True)
class StartFailed:
    """Nothing was started; `why` is a sentence for the operator. Nothing of the run is alive."""

    run: RunKey
    why: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Ready:
    """The readiness probe succeeded, or there is none and the agent runs."""

    run: RunKey
    at: Instant


@dataclass(frozen=True, slots=True)
class Exited:
    """The main process ended. Others of its tree may be alive until Gone."""

    run: RunKey
    status: ExitStatus
    at: Instant


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of the run's process tree is alive. Comes after Exited, always."""

    run: RunKey
    at: Instant


DriverEvent = Started | StartFailed | Ready | Exited | Gone
