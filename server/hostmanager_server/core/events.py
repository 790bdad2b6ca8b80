"""Driver events: facts about runs and services.

A lost or repeated event does no harm: the core decides from the folded facts.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from hostmanager.values import dataclass

from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.spec import ProcessSpec


@dataclass(frozen=True, slots=True, order=True)
class Instant:
    """A time on two clocks.

    `mono` (CLOCK_BOOTTIME, in s) serves for decisions, `wall` (Unix time, in s) for display.
    """

    mono: float
    wall: float

    def plus(self, seconds: float) -> Instant:
        """Return the instant `seconds` later."""
        return Instant(self.mono + seconds, self.wall + seconds)


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """The exit code (0 to 255) or signal of an ended process; neither if unknown.

    `out_of_memory`: the kernel killed a process of the container, or of the cgroup of the run, for lack of
    memory. `limit`: the name of the resource limit that the process hit, where the signal tells, else empty.
    """

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    core_dumped: bool = False
    limit: str = ""

    @property
    def success(self) -> bool:
        """True for exit code 0."""
        return self.code == 0

    def counts_as_success(self, codes: Collection[int]) -> bool:
        """Return whether the end is a success; `codes` is InstanceSpec.success_codes."""
        known = self.code if self.code is not None else -(self.signal or 0)
        return self.success or known in codes


@dataclass(frozen=True, slots=True)
class RunKey:
    """The identity of a run. `number` counts the launches of the instance.

    The core ignores events of older runs.
    """

    instance_id: str
    number: int


class _OfRun:
    """Base class of the events of a run."""

    __slots__ = ()
    run: RunKey

    @property
    def instance_id(self) -> str:
        """The instance of the run."""
        return self.run.instance_id


@dataclass(frozen=True, slots=True)
class Started(_OfRun):
    """The agent was executed.

    `process` is what the driver executed, where that differs from the spec: an env-file has changed since the
    daemon read the spec. `unlimited` says why the memory of the run has no limit although the spec has one.
    """

    run: RunKey
    pid: int
    at: Instant
    process: ProcessSpec | None = None
    unlimited: str = ""


@dataclass(frozen=True, slots=True)
class StartFailed(_OfRun):
    """A launch failed, and no process of the run is alive.

    `why` is a sentence for operators.
    """

    run: RunKey
    why: str
    at: Instant


@dataclass(frozen=True, slots=True)
class Ready(_OfRun):
    """The readiness probe succeeded, or the agent runs and has no probe."""

    run: RunKey
    at: Instant


class Verdict(Enum):
    """The outcome of one attempt of a liveness probe."""

    ALIVE = "alive"
    FAILED = "failed"
    UNKNOWN = "unknown"  # the probe could not be run, which says nothing about the instance


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The answer of a liveness probe.

    `message` says why the attempt failed, or could not be made; empty when alive. `failures` counts the
    failed attempts in a row.
    """

    verdict: Verdict
    at: Instant
    message: str = ""
    failures: int = 0


@dataclass(frozen=True, slots=True)
class ProbeAnswered(_OfRun):
    """The liveness probe answered, and the answer differs from the answer before, times apart."""

    run: RunKey
    answer: ProbeAnswer


@dataclass(frozen=True, slots=True)
class Exited(_OfRun):
    """The main process ended. Other processes of its tree may live until Gone.

    `last_output` holds the last lines that the run wrote, bounded and printable; empty if there are none.
    """

    run: RunKey
    status: ExitStatus
    at: Instant
    last_output: str = ""


@dataclass(frozen=True, slots=True)
class Gone(_OfRun):
    """No process of the run's tree is alive. Gone always follows Exited."""

    run: RunKey
    at: Instant


@dataclass(frozen=True, slots=True)
class Appeared(_OfRun):
    """A compose service runs without a launch by the daemon."""

    run: RunKey
    pid: int
    at: Instant


@dataclass(frozen=True, slots=True)
class Degraded(_OfRun):
    """Some containers of a compose service do not run, and the others do."""

    run: RunKey
    why: str
    status: ExitStatus | None  # exit of the containers; None: they did not start
    at: Instant


@dataclass(frozen=True, slots=True)
class StartDelayed(_OfRun):
    """A launch waits for something that may take long; empty `why`: the launch goes on."""

    run: RunKey
    why: str


@dataclass(frozen=True, slots=True)
class Renewed(_OfRun):
    """The driver replaces the container of a launch, because the old container cannot start.

    `why` is a sentence for operators.
    """

    run: RunKey
    why: str


@dataclass(frozen=True, slots=True)
class Outdated(_OfRun):
    """A service that this run builds upon has started again, and the run must restart with it."""

    run: RunKey
    why: str


@dataclass(frozen=True, slots=True)
class MemoryExceeded(_OfRun):
    """The run uses more memory than its instance may use without a restart; both in bytes."""

    run: RunKey
    memory: int
    limit: int


@dataclass(frozen=True, slots=True)
class Cleared(_OfRun):
    """A stop of a service without a running container has removed the leftover containers."""

    run: RunKey


@dataclass(frozen=True, slots=True)
class StopFailed(_OfRun):
    """A stop failed, and the core must request the stop again.

    `why` is a sentence for operators.
    """

    run: RunKey
    why: str
    at: Instant


@dataclass(frozen=True, slots=True)
class ServiceObserved:
    """The engine reported the status of a compose service."""

    instance_id: str
    status: ServiceStatus


@dataclass(frozen=True, slots=True)
class Unobservable:
    """The driver cannot observe the instance until the next ServiceObserved.

    `why` is a sentence for operators.
    """

    instance_id: str
    why: str


RunEvent = (
    Started | StartFailed | StartDelayed | Renewed | Ready | Exited | Gone | Appeared | Degraded | Outdated
    | MemoryExceeded | Cleared | StopFailed | ProbeAnswered
)  # fmt: skip
DriverEvent = RunEvent | ServiceObserved | Unobservable


@dataclass(frozen=True, slots=True)
class Adopted:
    """A verified run of an earlier daemon.

    `ended` is the exit status of a main process that ended while no daemon ran, and None for a live
    process. For an ended run, `gone` tells whether the whole tree is gone; otherwise the driver posts Gone
    later. While `ready` is False, the driver probes on and posts Ready later. `agent_class` is empty if
    unknown. `last_output` is that of an ended run, as in Exited.
    """

    run: RunKey
    pid: int
    started: Instant
    process: ProcessSpec
    ended: ExitStatus | None = None
    gone: bool = False
    ready: bool = True
    agent_class: str = ""
    last_output: str = ""
