"""Validated specs of hosts, instances and compose services, defaults included."""

from __future__ import annotations

import signal
from enum import Enum

from hostmanager.values import dataclass, field

# Timings in s, from OCS (ocs/agents/host_manager/drivers.py): a start may take 15 s, and the next attempt
# after a time-out follows 5 s later. OCS gives up on a stop after 11 s (WAIT_DEAD_TIME); the stop escalation
# waits 10 s after the stop signal, and 5 s after SIGTERM.
START_TIMEOUT = 15.0
START_TIMEOUT_RETRY = 5.0
# How long a run must last, in s, before the instance is up; the default of supervisord's `startsecs`, too.
UP_AFTER = 1.0
HOOK_TIMEOUT = 30.0  # s
STOP_GRACE = 10.0
TERM_GRACE = 5.0


class Management(Enum):
    """The kind of management of an instance; the values are OCS's words."""

    HOST = "host"
    DOCKER = "docker"
    RETIRED = "retired"


class Target(Enum):
    """The target state of an instance; the values are OCS's words."""

    UP = "up"
    DOWN = "down"
    PASSIVE = "passive"


class RestartWhen(Enum):
    """The exits after which a run is restarted, apart from requested stops."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class StartCondition(Enum):
    """What an instance waits for in a dependency before the start."""

    STARTED = "started"  # the dependency was executed
    READY = "ready"  # the dependency is up, or has completed
    COMPLETED = "completed"  # the dependency has ended with success, and is not restarted


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff between restarts, in s.

    The first delay is `initial`; each further failure multiplies the delay by `factor`, up to `maximum`.
    After `reset_after` s up, the failures no longer count.
    """

    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 30.0
    reset_after: float = 60.0

    def delay(self, failures: int) -> float:
        """Return the delay in s after that many consecutive failures (1 or more)."""
        if self.initial <= 0.0:
            return 0.0
        try:
            return min(self.maximum, self.initial * self.factor ** max(0, failures - 1))
        except OverflowError:
            return self.maximum


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """The exits that lead to a restart, and the delays before restarts.

    After `give_up_after` failures in a row no restart follows; None: restarts never end.
    """

    when: RestartWhen = RestartWhen.ALWAYS
    backoff: Backoff = field(default_factory=Backoff)
    give_up_after: int | None = None


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """The signals of a stop, and the times between them.

    The main process receives `signal`. The whole process tree receives SIGTERM after `grace` s, and SIGKILL
    after another `term_grace` s.
    """

    signal: int = signal.SIGINT
    grace: float = STOP_GRACE
    term_grace: float = TERM_GRACE


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """A probe that succeeds when host:port accepts a TCP connection."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """A probe that succeeds when a GET of `url` returns a status from 200 to 399."""

    url: str


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """A probe that succeeds when the command exits 0.

    The command runs with the environment, directory and user of the instance.
    """

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """A check repeated every `interval` s from the start until the first success.

    Each attempt may take `timeout` s.
    """

    check: TcpProbe | HttpProbe | CommandProbe
    interval: float = 0.5
    timeout: float = 2.0


@dataclass(frozen=True, slots=True)
class HealthCheckProbe:
    """The health check of a compose service, as the engine runs it by the compose file."""


# Defaults of `alive`: interval and number of failures as in Kubernetes, with more time for a busy host.
ALIVE_INTERVAL = 10.0
ALIVE_TIMEOUT = 5.0
ALIVE_FAILURES = 3


@dataclass(frozen=True, slots=True)
class LivenessProbe:
    """A check repeated every `interval` s while the instance is up; the first after `delay` s.

    Each attempt may take `timeout` s. After `failures` failed attempts in a row the instance is restarted.
    A HealthCheckProbe uses none of the numbers: the compose file has its own.
    """

    check: TcpProbe | HttpProbe | CommandProbe | HealthCheckProbe
    interval: float = ALIVE_INTERVAL
    timeout: float = ALIVE_TIMEOUT
    failures: int = ALIVE_FAILURES
    delay: float = ALIVE_INTERVAL


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times at which a one-shot runs: five cron words, in a time zone (empty: the machine's).

    A run that cannot begin at its time begins late, up to `catch_up` s.
    """

    cron: str
    timezone: str = ""
    catch_up: float = 60.0


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """The output file of an instance, and its rotation.

    The file lies in `directory` (empty: the daemon's default) and rotates above `size` bytes; the daemon
    keeps `keep` rotated files. The owner is the daemon's user, or `user`, the agent's (empty: the daemon's).
    """

    directory: str = ""
    size: int = 10 * 1024 * 1024
    keep: int = 5
    user: str = ""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file of variables, with the digest of its content.

    The digest is empty if the file could not be read; the daemon stores no values. An `optional` file may be
    missing.
    """

    path: str
    digest: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """The command of a native process, and its environment.

    A process that runs with another spec needs a restart.
    """

    argv: tuple[str, ...]
    source: str = field(default="command", compare=False)  # config key that gave the command
    env: tuple[tuple[str, str], ...] = ()  # overrides inherited variables and env-files, sorted by name
    working_dir: str = "/"
    user: str = ""  # empty: the daemon's user
    limits: tuple[tuple[str, int | None], ...] = ()  # by `ulimit`-like name, None: unlimited, sorted
    env_files: tuple[EnvFile, ...] = ()  # over what is inherited, a later one over an earlier one
    # Patterns of variables to inherit with the base list. None: all, or none where there is a `user`.
    env_inherit: tuple[str, ...] | None = None
    memory: int | None = None  # bytes, the hard limit of the run's cgroup
    group: str = ""  # empty: the user's, else the daemon's
    umask: int | None = None  # None: the daemon's
    nice: int | None = None  # None: the daemon's


class PullPolicy(Enum):
    """When a pull fetches an image; the values are compose's words."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"
    BUILD = "build"


class Condition(Enum):
    """What a service waits for before its start; the values are compose's words."""

    STARTED = "service_started"
    HEALTHY = "service_healthy"
    COMPLETED = "service_completed_successfully"


@dataclass(frozen=True, slots=True)
class ServiceDependency:
    """A service of the same project that another service needs.

    `restart`: the other service restarts after each new start of this one, because compose was told so or
    because the other service uses namespaces or volumes of its containers. A dependency that is not
    `required` delays a start, but a failure of the dependency does not prevent the start.
    """

    service: str
    condition: Condition = Condition.STARTED
    restart: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class ServiceContents:
    """Digests of the secrets and configs of a compose service.

    A container sees `files` as they are at its start. Compose copies `inline` contents, which stand in the
    compose file or in a variable, into a container that it makes. `changed` is the time (s since 1970) of the
    latest change of a file; 0 without files.
    """

    files: str = field(default="", repr=False)
    changed: float = 0.0
    inline: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service of a managed compose file, as reported by `docker compose config`."""

    project: str
    files: tuple[str, ...]  # absolute paths of all compose files of the project, as for `-f`
    service: str
    image: str  # tag in the compose file
    replicas: int = 1
    dependencies: tuple[ServiceDependency, ...] = ()  # services of the same project, sorted by name
    config_hash: str = ""  # compose's hash of the definition, also a label of the containers; empty: unknown
    pull_policy: PullPolicy = PullPolicy.ALWAYS  # without a policy in the file, a pull fetches every image
    built: bool = False  # has a `build` section: the image is built on this host
    profiles: tuple[str, ...] = ()  # not empty: starts only by name, or with an active profile
    platform: str = ""  # of the image, such as linux/arm64; empty: the engine's platform
    content_files: tuple[str, ...] = ()  # of its secrets and configs, absolute, sorted
    contents: ServiceContents = ServiceContents()
    stop_grace: float = STOP_GRACE  # s from the stop signal to KILL; negative: without end
    # The definition as compose hashes it, for a service that uses namespaces or volumes of another service:
    # compose hashes the ids of the other containers with it. Empty: `config_hash` alone counts.
    hashed_definition: str = ""
    slow_to_create: bool = False  # making a container may pull or build an image that exists already
    started_by_compose: bool = False  # has hooks or file contents that compose handles at the start

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The names of the dependencies."""
        return tuple(dependency.service for dependency in self.dependencies)

    @property
    def file(self) -> str:
        """The first compose file, by which operators know the project."""
        return self.files[0]


Workload = ProcessSpec | ServiceSpec


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that the daemon runs when an instance fails or recovers; an empty `argv` runs none."""

    argv: tuple[str, ...]
    working_dir: str = "/"
    user: str = ""  # empty: the daemon's user
    timeout: float = HOOK_TIMEOUT  # s until the command is killed


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One entry of `agent-instances`, or a compose service without an entry."""

    instance_id: str
    agent_class: str
    management: Management = Management.HOST
    initial_target: Target = Target.UP
    process: ProcessSpec | None = None
    service: ServiceSpec | None = None
    problem: str = ""  # why the instance has neither: not operable
    ready: ReadinessProbe | None = None
    log: LogPolicy = field(default_factory=LogPolicy)
    start_timeout: float = START_TIMEOUT
    up_after: float = 0.0  # s that a run must last before the instance is up
    stop: StopPolicy = field(default_factory=StopPolicy)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    depends_on: tuple[str, ...] = ()
    # Conditions by id of the dependency. For the others, `default_condition` of the dependency holds.
    conditions: tuple[tuple[str, StartCondition], ...] = ()
    restart_dependents: bool = False  # a new run restarts the running dependents
    restart_above: int | None = None  # bytes of memory; a run that uses more is restarted
    # Ends that count as success besides exit code 0: exit codes, and negative numbers of signals.
    success_codes: tuple[int, ...] = ()
    on_failure: Hook | None = None
    on_recover: Hook | None = None
    labels: tuple[tuple[str, str], ...] = ()  # name and value, sorted; operators select by them
    # The instances of the compose services that the start of the service would start, too.
    service_dependencies: tuple[str, ...] = ()
    position: int = 0  # the place in the site config, from 1; 0 without an entry there
    alive: LivenessProbe | None = None
    schedule: Schedule | None = None  # of a one-shot
    run_arguments: bool = False  # a request to run the one-shot once may add arguments to its command

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The ids of all instances that matter to a start."""
        return self.depends_on + self.service_dependencies

    @property
    def one_shot(self) -> bool:
        """True for a run that is expected to end: success leads to no restart, and no probe exists."""
        return self.restart.when is not RestartWhen.ALWAYS and self.ready is None

    @property
    def default_condition(self) -> StartCondition:
        """The condition of dependents that name none."""
        return StartCondition.COMPLETED if self.one_shot else StartCondition.READY

    @property
    def full_name(self) -> str:
        """The agent class and the instance id, joined by a colon."""
        return f"{self.agent_class}:{self.instance_id}"

    @property
    def workload(self) -> Workload | None:
        """The process or service to run; None if not operable, and `problem` says why."""
        return self.process or self.service


@dataclass(frozen=True, slots=True)
class HostSpec:
    """The instances of one host, as given by its site config."""

    host: str
    instances: tuple[InstanceSpec, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()  # of instances that the site config does not name
