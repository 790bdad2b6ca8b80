"""What the site config asks for, validated: the values that config produces and the engine runs on."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import Enum

# The seed timings of OCS (ocs/agents/host_manager/drivers.py): 15 s for a start to
# be seen, 5 s before one that was not seen is tried again. Its WAIT_DEAD_TIME is 11 s;
# here the first, polite stage of a stop lasts 10 s and then escalates.
START_TIMEOUT = 15.0
START_TIMEOUT_RETRY = 5.0
STOP_GRACE = 10.0
TERM_GRACE = 5.0


class Management(Enum):
    """How an instance is managed; values are OCS's words."""

    HOST = "host"
    DOCKER = "docker"
    RETIRED = "retired"


class Target(Enum):
    """What is wanted of an instance; values are OCS's words."""

    UP = "up"
    DOWN = "down"
    PASSIVE = "passive"


class RestartWhen(Enum):
    """After which ends of a run that was not asked to end it is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays between restarts: `initial` s after the first failure, times `factor` for each further one,
    at most `maximum` s; forgotten after `reset_after` s up."""

    initial: float = 0.1
    factor: float = 2.0
    maximum: float = 30.0
    reset_after: float = 60.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after the `failures`-th consecutive failure (1 or more)."""
        if self.initial <= 0.0:
            return 0.0
        try:
            return min(self.maximum, self.initial * self.factor ** max(0, failures - 1))
        except OverflowError:
            return self.maximum


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    when: RestartWhen = RestartWhen.ALWAYS
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """`signal` to the main process, after `grace` s TERM to the whole tree, after `term_grace` s KILL."""

    signal: int = signal.SIGINT
    grace: float = STOP_GRACE
    term_grace: float = TERM_GRACE


@dataclass(frozen=True, slots=True)
class TcpProbe:
    """Ready when a TCP connection to host:port is accepted."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """Ready when a GET of `url` answers 200 to 399."""

    url: str


@dataclass(frozen=True, slots=True)
class CommandProbe:
    """Ready when the command, run with the instance's environment, directory and user, exits 0."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """Asked every `interval` s, each try at most `timeout` s, from the start until it first succeeds."""

    check: TcpProbe | HttpProbe | CommandProbe
    interval: float = 0.5
    timeout: float = 2.0


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """Output goes to a file in `directory` (empty: the daemon's default), which is rotated when it exceeds
    `size` bytes; `keep` rotated files are kept. Files may belong to the daemon's user, or to `user`, the
    agent's (empty: the daemon's)."""

    directory: str = ""
    size: int = 10 * 1024 * 1024
    keep: int = 5
    user: str = ""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file of variables, and the digest of what it said; empty where it could not be read. The values are
    kept nowhere. `optional`: a file that is missing gives none."""

    path: str
    digest: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What is exec'ed, and in which surroundings. A process that runs something else needs a restart."""

    argv: tuple[str, ...]
    source: str = field(default="command", compare=False)  # where the command was found
    env: tuple[tuple[str, str], ...] = ()  # over what is inherited and the files, sorted by name
    working_dir: str = "/"
    user: str = ""  # empty: the daemon's own
    limits: tuple[tuple[str, int | None], ...] = ()  # by `ulimit`-like name, None: unlimited, sorted
    env_files: tuple[EnvFile, ...] = ()  # over what is inherited, a later one over an earlier one
    # Patterns of variables to inherit with the base list. None: all, or none where there is a `user`.
    env_inherit: tuple[str, ...] | None = None


class PullPolicy(Enum):
    """When `pull` gets an image; values are compose's words."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"
    BUILD = "build"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service of a managed compose file, as `docker compose config` tells it."""

    project: str
    files: tuple[str, ...]  # absolute paths of the compose files that make up the project, as given to `-f`
    service: str
    image: str  # the tag it is to run
    replicas: int = 1
    depends_on: tuple[str, ...] = ()  # services of the same project, sorted
    config_hash: str = ""  # compose's hash of the definition, which it puts on containers; empty: not known
    pull_policy: PullPolicy = PullPolicy.ALWAYS  # unless told otherwise `pull` gets all
    built: bool = False  # has a `build` section: its image is made here
    profiles: tuple[str, ...] = ()  # not empty: started only when named, or when a profile of it is active
    platform: str = ""  # of the image to pull, such as linux/arm64; empty: the engine's own

    @property
    def file(self) -> str:
        """The first of the files: what operators know the project by."""
        return self.files[0]


Workload = ProcessSpec | ServiceSpec


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """One entry of `agent-instances`, with every default filled in; or a compose service without one."""

    instance_id: str
    agent_class: str
    management: Management = Management.HOST
    initial_target: Target = Target.UP
    process: ProcessSpec | None = None
    service: ServiceSpec | None = None
    problem: str = ""  # why there is neither: it is not operable
    ready: ReadinessProbe | None = None
    log: LogPolicy = field(default_factory=LogPolicy)
    start_timeout: float = START_TIMEOUT
    stop: StopPolicy = field(default_factory=StopPolicy)
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    depends_on: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"{self.agent_class}:{self.instance_id}"

    @property
    def workload(self) -> Workload | None:
        """What it runs. None: it is not operable, and `problem` says why."""
        return self.process or self.service


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What one host is to run, as its site config says."""

    host: str
    instances: tuple[InstanceSpec, ...] = ()
