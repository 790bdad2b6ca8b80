"""Events: what drivers see, as facts for the core. A lost or doubled one does no harm."""

from __future__ import annotations

from dataclasses import dataclass

from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.spec import ProcessSpec


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


class _OfRun:
    """What events of a run have in common."""

    __slots__ = ()
    run: RunKey

    @property
    def instance_id(self) -> str:
        return self.run.instance_id


@dataclass(frozen=True, slots=True)
class Started(_OfRun):
    """The agent was exec'ed. `process` is what it was made from, where that is not what its spec says: a file
    of variables has changed since the spec was read."""

    run: RunKey
    pid: int
    at: Instant
    process: ProcessSpec | None = None


@dataclass(frozen=True, slots=True)
class StartFailed(_OfRun):
    """Nothing was started; `why` is a sentence for the operator. Nothing of the run is alive."""

    run: RunKey
    why: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Ready(_OfRun):
    """The readiness probe succeeded, or there is none and the agent runs."""

    run: RunKey
    at: Instant


@dataclass(frozen=True, slots=True)
class Exited(_OfRun):
    """The main process ended. Others of its tree may be alive until Gone."""

    run: RunKey
    status: ExitStatus
    at: Instant


@dataclass(frozen=True, slots=True)
class Gone(_OfRun):
    """Nothing of the run's process tree is alive. Comes after Exited, always."""

    run: RunKey
    at: Instant


@dataclass(frozen=True, slots=True)
class Appeared(_OfRun):
    """It runs, although nobody launched it. Of compose services only."""

    run: RunKey
    pid: int
    at: Instant


@dataclass(frozen=True, slots=True)
class Degraded(_OfRun):
    """A part of it has ended, or could not be started, and the rest runs. Of compose services only."""

    run: RunKey
    why: str
    status: ExitStatus | None  # how the part ended; None: it was not started
    at: Instant


@dataclass(frozen=True, slots=True)
class StopFailed(_OfRun):
    """A stop came to nothing; `why` is a sentence for the operator. It is to be asked for again."""

    run: RunKey
    why: str
    at: Instant


@dataclass(frozen=True, slots=True)
class ServiceObserved:
    """What the engine has of the service. Of compose services only."""

    instance_id: str
    record: ServiceStatus


@dataclass(frozen=True, slots=True)
class OutOfSight:
    """What it does cannot be known for now; `why` is a sentence. Lasts until Seen."""

    instance_id: str
    why: str


RunEvent = Started | StartFailed | Ready | Exited | Gone | Appeared | Degraded | StopFailed
DriverEvent = RunEvent | ServiceObserved | OutOfSight


@dataclass(frozen=True, slots=True)
class Adopted:
    """A run that an earlier daemon started, verified.

    `ended` tells how its main process ended while nobody was there to see it, None when it is alive. Then
    `gone` says whether all of its tree is gone; when not, Gone is posted in time. `ready` is False when it
    has yet to become so: Ready is posted then. `agent_class` is empty when it is not known.
    """

    run: RunKey
    pid: int
    started: Instant
    process: ProcessSpec
    ended: ExitStatus | None = None
    gone: bool = False
    ready: bool = True
    agent_class: str = ""
