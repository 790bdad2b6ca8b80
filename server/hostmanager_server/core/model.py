"""The instance model: wanted, observed and current state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from hostmanager.values import dataclass, replace

from hostmanager_server.core.compose import ServiceStatus
from hostmanager_server.core.events import ExitStatus, Instant, ProbeAnswer, RunKey
from hostmanager_server.core.origin import NO_ORIGINS, Origin, RequestOrigins
from hostmanager_server.core.spec import (
    InstanceSpec,
    Management,
    ProcessSpec,
    ServiceSpec,
    StartCondition,
    Target,
    Workload,
)


class State(Enum):
    """The state of an instance: OCS's `next_action`, with its words."""

    DOWN = "down"
    START_AT = "start_at"
    START = "start"
    WAIT_START = "wait_start"
    UP = "up"
    WAIT_DEAD = "wait_dead"
    UNKNOWN = "?"


class Phase(Enum):
    """The progress of a run, as reported by its driver."""

    LAUNCHING = "launching"  # the core asked the driver to launch
    RUNNING = "running"  # the main process was executed
    READY = "ready"  # the readiness probe succeeded, or the instance has none
    DEGRADED = "degraded"  # some containers of the service do not run
    ENDING = "ending"  # the main process has ended, other processes of its tree may live


class StopStage(Enum):
    """A step of the stop escalation."""

    SIGNAL = "signal"  # the configured stop signal, to the main process
    TERM = "term"  # SIGTERM to the whole tree
    KILL = "kill"  # SIGKILL to the whole tree, repeated until no process is left
    REMOVE = "remove"  # compose stops and removes the containers; the engine escalates


class Outcome(Enum):
    """The end of an instance that no restart follows, although the target is up."""

    COMPLETED = "completed"  # ended with success
    FAILED = "failed"  # the daemon gave up, or the restart policy allows no restart


@dataclass(frozen=True, slots=True)
class UnmetDependency:
    """A dependency that delays a start.

    `hopeless` says why the condition cannot be met without a request; empty: the daemon works on the
    dependency.
    """

    instance_id: str
    condition: StartCondition
    hopeless: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One life of an instance, from the launch until its whole process tree is gone."""

    number: int
    phase: Phase
    workload: Workload  # the definition that the driver started
    pid: int = 0
    started: Instant | None = None
    adopted: bool = False
    stop_stage: StopStage | None = None
    stop_error: str = ""  # why the last stop failed, until the core has handled the failure
    stop_failures: int = 0
    missing: str = ""  # which containers do not run, until the core has handled the loss
    waits_for: str = ""  # what the launch waits for
    renewed: str = ""  # why the driver replaced a container, until the core has reported that
    outdated: str = ""  # why the run must restart, until the core has handled that
    answer: ProbeAnswer | None = None  # of the liveness probe
    failed: str = ""  # why the daemon ends the run as a failure
    excess: str = ""  # how much memory the run uses above the limit, until the core has handled that
    stop_cause: str = ""  # why the daemon stops the run without a request
    unlimited: str = ""  # why the memory has no limit although the spec has one
    notice: str = ""  # a warning about the run, until the core has reported that


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a run.

    `last_output` is no part of `why`: reading output may be a right that not every client has. `failed` says
    why the daemon ended the run as a failure; empty if the run ended otherwise.
    """

    status: ExitStatus
    at: Instant
    expected: bool
    why: str
    started: Instant | None = None
    pid: int = 0
    last_output: str = ""
    failed: str = ""
    cause: str = ""  # why the daemon stopped the run without a request


@dataclass(frozen=True, slots=True)
class Hold:
    """An order of an operator to start an instance not again until `until`; None: until its release."""

    since: Instant
    until: Instant | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a one-shot that an operator or its schedule asked for.

    The run gets `arguments` after those of the config. `once`: no restart follows, whatever the policy.
    Afterwards the target is `target_after`; None: the target stays.
    """

    arguments: tuple[str, ...] = ()
    once: bool = False
    target_after: Target | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What operators and the site config ask of an instance."""

    target: Target
    management: Management
    restart: bool = False  # go down and up again, once
    target_lost: bool = False  # the requested target is unknown; a running instance keeps running
    successor: InstanceSpec | None = None  # replaces the spec once the instance is down
    enforced: bool = True  # False while the manager is stopped: the core follows states only
    generation: int = 1
    origins: RequestOrigins = NO_ORIGINS
    hold: Hold | None = None
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What drivers reported about an instance, and what its neighbours do."""

    run: Run | None = None  # None: no process or container is alive
    last_exit: Exit | None = None
    start_error: str = ""  # why the last launch failed
    waiting_for: tuple[UnmetDependency, ...] = ()
    held_by: tuple[str, ...] = ()  # dependents that must be down first
    restarted_by: tuple[str, ...] = ()  # dependencies that began a new run, and restart their dependents
    service: ServiceStatus | None = None  # the engine's status of a compose service
    next_run: float | None = None  # the next time of the schedule, in s since 1970
    unobservable: str = ""  # why the real state is unknown; the core does nothing meanwhile


@dataclass(frozen=True, slots=True)
class Standing:
    """The current state, with the counters and deadlines that decide the next."""

    state: State = State.DOWN
    deadline: Instant | None = None  # when the core must decide again in this state
    reason: str = "Stopped"
    message: str = ""
    runs: int = 0  # launches so far; the number of the newest run
    restarts: int = 0  # launches that no operator asked for
    failures: int = 0  # consecutive failures, from which the backoff is computed
    fail_times: tuple[Instant, ...] = ()
    retry_at: Instant | None = None  # no launch before this moment
    outcome: Outcome | None = None  # None: a restart follows an end
    backgrounded: int = 0  # runs in a row with a main process that left its tree and ended with success
    observed_generation: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One managed process or compose service.

    Only `decide` and the other functions of core/lifecycle.py change `standing.state`.
    """

    spec: InstanceSpec
    wanted: Wanted
    observed: Observed = Observed()
    standing: Standing = Standing()

    @property
    def instance_id(self) -> str:
        """The id of the instance in the site config."""
        return self.spec.instance_id

    @property
    def operable(self) -> bool:
        """True if there is a process or service to run, or a live run."""
        return self.spec.workload is not None or self.observed.run is not None

    @property
    def next_action(self) -> State:
        """The state, or UNKNOWN while the real state cannot be observed."""
        return State.UNKNOWN if self.observed.unobservable else self.standing.state

    @property
    def retired(self) -> bool:
        """True if the instance leaves the list once down."""
        return self.wanted.management is Management.RETIRED

    @property
    def should_run(self) -> bool:
        """True if the instance must be running now."""
        wanted = self.wanted
        return (
            wanted.target is Target.UP
            and self.standing.outcome is None
            and wanted.enforced
            and not self.retired
            and not wanted.restart
            and wanted.successor is None
        )

    @property
    def held(self) -> bool:
        """True if the daemon must not start or restart the instance."""
        return self.wanted.hold is not None

    @property
    def can_start(self) -> bool:
        """True if the instance must be running, and no run and no hold is in the way."""
        operable = self.spec.workload is not None and not self.wants_no_container
        free = not self.held and not self.awaits_schedule and self.observed.run is None
        return self.should_run and operable and free

    @property
    def awaits_schedule(self) -> bool:
        """True for a scheduled one-shot without a due run; passive instances have no schedule."""
        scheduled = self.spec.schedule is not None and not self.passive_tracking
        return scheduled and self.wanted.job is None

    def too_young(self, now: Instant) -> bool:
        """Return whether the run has not lasted `up_after` yet."""
        run = self.observed.run
        began = run.started if run is not None else None
        return began is not None and now.mono < began.mono + self.spec.up_after

    @property
    def passive_tracking(self) -> bool:
        """True if each request is carried out once, without enforcing the target."""
        return self.spec.initial_target is Target.PASSIVE

    @property
    def should_stop(self) -> bool:
        """True if any live process must be stopped; always false for passive instances."""
        if self.should_run or not self.wanted.enforced:
            return False
        return self.wanted.target is not Target.PASSIVE or self.wanted.successor is not None

    @property
    def wants_no_container(self) -> bool:
        """True for a compose service with `scale: 0` or `replicas: 0`."""
        return self.spec.service is not None and self.spec.service.replicas == 0

    @property
    def restart_required(self) -> bool:
        """True if the run differs from the present config or image tag."""
        run = self.observed.run
        if run is None:
            return False
        if isinstance(self.spec.workload, ServiceSpec):
            return self.observed.service is not None and self.observed.service.outdated
        return not _is_same(run.workload, self.spec_to_run.workload)

    @property
    def spec_to_run(self) -> InstanceSpec:
        """The spec of the next run: with the arguments of the job, if any."""
        process, job = self.spec.process, self.wanted.job
        if process is None or job is None or not job.arguments:
            return self.spec
        return replace(self.spec, process=replace(process, argv=(*process.argv, *job.arguments)))

    @property
    def settled(self) -> bool:
        """True if every request to the instance has been carried out."""
        wanted, state = self.wanted, self.standing.state
        if wanted.restart or wanted.successor is not None or self.retired or self.observed.unobservable:
            return False
        if wanted.target is Target.UP:
            ended = self.standing.outcome is not None or self.wants_no_container or self.awaits_schedule
            return state is State.UP or (ended and state is State.DOWN)
        return state in (State.DOWN, State.UNKNOWN) or wanted.target is Target.PASSIVE

    def succeeded(self, status: ExitStatus) -> bool:
        """Return whether an end counts as success for this instance."""
        return status.counts_as_success(self.spec.success_codes)

    @property
    def pending_origin(self) -> Origin | None:
        """The origin of the request that is being carried out; None without one."""
        wanted = self.wanted
        pending = wanted.restart or wanted.generation != self.standing.observed_generation
        return wanted.origins.newest if pending else None

    def run_key(self) -> RunKey:
        """Return the key of the present run, which must exist."""
        assert self.observed.run is not None
        return RunKey(self.instance_id, self.observed.run.number)

    def with_run(self, run: Run | None) -> Instance:
        """Return the instance with another run."""
        return replace(self, observed=replace(self.observed, run=run))


def _is_same(runs: Workload, wanted: Workload | None) -> bool:
    """Return whether a restart would change nothing; an unreadable env-file counts as unchanged."""
    if runs == wanted or not isinstance(runs, ProcessSpec) or not isinstance(wanted, ProcessSpec):
        return runs == wanted
    known = {file.path: file for file in runs.env_files}
    files = tuple(file if file.digest else known.get(file.path, file) for file in wanted.env_files)
    return replace(wanted, env_files=files) == runs


def with_hold(instance: Instance, hold: Hold | None) -> Instance:
    """Return the instance with another hold, or none."""
    return replace(instance, wanted=replace(instance.wanted, hold=hold))


Instances = Mapping[str, Instance]

# Until the engine has listed the containers of a compose service, the service may run: the core waits.
NOT_YET_OBSERVED = "the docker engine has not been asked yet"


def new_instance(spec: InstanceSpec, target: Target | None = None, *, generation: int = 1) -> Instance:
    """Return a newly tracked instance; `target` defaults to the configured target."""
    return Instance(
        spec,
        Wanted(spec.initial_target if target is None else target, spec.management, generation=generation),
        Observed(unobservable=NOT_YET_OBSERVED if spec.service is not None else ""),
    )


def successor_of(old: Instance, spec: InstanceSpec, target: Target) -> Instance:
    """Return a new instance in place of `old`, which has no live process.

    The count of runs continues.
    """
    new = new_instance(spec, target, generation=old.wanted.generation)
    unmet = tuple(UnmetDependency(name, StartCondition.READY) for name in spec.dependencies)
    return replace(
        new,
        wanted=replace(new.wanted, origins=old.wanted.origins, hold=old.wanted.hold),
        # Every dependency counts as missing until the reconciler has checked them.
        observed=replace(new.observed, waiting_for=unmet, last_exit=old.observed.last_exit),
        standing=replace(
            new.standing, runs=old.standing.runs, observed_generation=old.standing.observed_generation
        ),
    )
