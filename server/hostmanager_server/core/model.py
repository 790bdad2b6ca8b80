"""An instance: what is wanted of it, what was seen of it, where it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from hostmanager_server.core.events import ExitStatus, Instant, RunKey
from hostmanager_server.core.service import ServiceRecord
from hostmanager_server.core.spec import InstanceSpec, Management, ProcessSpec, ServiceSpec, Target, Workload


class State(Enum):
    """Where an instance stands: OCS's `next_action`, with its words."""

    DOWN = "down"
    START_AT = "start_at"
    START = "start"
    WAIT_START = "wait_start"
    UP = "up"
    WAIT_DEAD = "wait_dead"
    UNKNOWN = "?"


class Phase(Enum):
    """How far a run has come."""

    LAUNCHING = "launching"  # asked of the driver
    RUNNING = "running"  # exec'ed
    READY = "ready"  # runs, and its probe has succeeded
    DEGRADED = "degraded"  # runs in part
    ENDING = "ending"  # the main process has ended, others of its tree may live


class StopStage(Enum):
    """How insistently a run is being ended."""

    SIGNAL = "signal"  # the instance's stop signal, to the main process
    TERM = "term"  # to the whole tree
    KILL = "kill"  # to the whole tree, until nothing is left
    REMOVE = "remove"  # of containers: the engine knows how to insist


@dataclass(frozen=True, slots=True)
class Run:
    """One life of an instance, from the launch until its whole process tree is gone."""

    number: int
    phase: Phase
    workload: Workload  # what it was started from
    pid: int = 0
    started: Instant | None = None
    adopted: bool = False
    stop_stage: StopStage | None = None
    stop_error: str = ""  # why the last stop came to nothing, until that is seen to
    stop_failures: int = 0
    missing: str = ""  # which part of it does not run, until that is seen to


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run ended."""

    status: ExitStatus
    at: Instant
    expected: bool
    why: str
    started: Instant | None = None
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One managed thing. `decide` in core/lifecycle.py is what moves it."""

    spec: InstanceSpec
    management: Management
    target: Target

    # observed
    run: Run | None = None  # None: nothing of it is alive
    last_exit: Exit | None = None
    start_error: str = ""  # why the last launch came to nothing
    waiting_for: tuple[str, ...] = ()  # not yet up, and this depends on them
    held_by: tuple[str, ...] = ()  # being brought down first, as they depend on this
    record: ServiceRecord | None = None  # what the engine has of it, if it is a compose service
    out_of_sight: str = ""  # why it is not known what it does; nothing is done about it meanwhile

    # asked for
    restart_wanted: bool = False  # down and up again, once
    target_lost: bool = False  # what was asked of it is not known any more: should it run, it is to
    successor: InstanceSpec | None = None  # takes its place when it is down (class or management changed)
    enforced: bool = True  # False: the manager sleeps, and what is, is shown

    # where it stands
    state: State = State.DOWN
    at: Instant | None = None  # the deadline of this state
    reason: str = "Stopped"
    message: str = ""
    runs: int = 0  # launches so far; the number of the newest run
    restarts: int = 0  # launches nobody asked for
    failures: int = 0  # consecutive, what the backoff is computed from
    fail_times: tuple[Instant, ...] = ()
    retry_at: Instant | None = None  # not to be started before this
    finished: bool = False  # ended, and its restart policy says that this was it
    generation: int = 1
    observed_generation: int = 0

    @property
    def instance_id(self) -> str:
        return self.spec.instance_id

    @property
    def operable(self) -> bool:
        return self.spec.workload is not None or self.run is not None

    @property
    def next_action(self) -> State:
        """Where it stands as far as that is known."""
        return State.UNKNOWN if self.out_of_sight else self.state

    @property
    def retired(self) -> bool:
        return self.management is Management.RETIRED

    @property
    def wanted(self) -> bool:
        """Whether it is to run now."""
        return (
            self.target is Target.UP
            and not self.finished
            and self.enforced
            and not self.retired
            and not self.restart_wanted
            and self.successor is None
        )

    @property
    def passive_tracking(self) -> bool:
        """It is observed, and started or stopped on request once, but not kept so."""
        return self.spec.initial_target is Target.PASSIVE

    @property
    def leaving(self) -> bool:
        """If anything of it is alive, that is to end. Never so for one that is only observed."""
        if self.wanted or not self.enforced:
            return False
        return self.target is not Target.PASSIVE or self.successor is not None

    @property
    def restart_required(self) -> bool:
        """It runs something other than what the config, or the image tag, now says."""
        if self.run is None:
            return False
        if isinstance(self.spec.workload, ServiceSpec):
            return self.record is not None and self.record.outdated
        return not _is_same(self.run.workload, self.spec.workload)

    @property
    def settled(self) -> bool:
        """All that was asked of it has been carried out."""
        if self.restart_wanted or self.successor is not None or self.retired or self.out_of_sight:
            return False
        if self.target is Target.UP:
            return self.state is State.UP or (self.finished and self.state is State.DOWN)
        return self.state in (State.DOWN, State.UNKNOWN) or self.target is Target.PASSIVE

    def run_key(self) -> RunKey:
        assert self.run is not None
        return RunKey(self.instance_id, self.run.number)


def _is_same(runs: Workload, wanted: Workload | None) -> bool:
    """Whether a restart would change nothing. A file that cannot be read now counts as unchanged."""
    if runs == wanted or not isinstance(runs, ProcessSpec) or not isinstance(wanted, ProcessSpec):
        return runs == wanted
    known = {file.path: file for file in runs.env_files}
    files = tuple(file if file.digest else known.get(file.path, file) for file in wanted.env_files)
    return replace(wanted, env_files=files) == runs


# Nothing is done about a compose service before it was looked at what there is: it may be running.
NOT_YET_SEEN = "the docker engine has not been asked yet"


def new_instance(spec: InstanceSpec, target: Target | None = None, *, generation: int = 1) -> Instance:
    """An instance as first tracked, with its configured target unless told otherwise."""
    return Instance(
        spec=spec,
        management=spec.management,
        target=spec.initial_target if target is None else target,
        generation=generation,
        out_of_sight=NOT_YET_SEEN if spec.service is not None else "",
    )


def successor_of(old: Instance, spec: InstanceSpec, target: Target) -> Instance:
    """A fresh instance in the place of `old`, of which nothing is alive. What counts up goes on counting."""
    return replace(
        new_instance(spec, target, generation=old.generation),
        waiting_for=spec.depends_on,  # until it is looked at which of them are up
        runs=old.runs,
        last_exit=old.last_exit,
        observed_generation=old.observed_generation,
    )
