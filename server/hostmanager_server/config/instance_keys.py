"""Keys of an instance or of its agent class, in addition to those of OCS."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from hostmanager.values import dataclass, field

from hostmanager_server.config.command_line import read_command
from hostmanager_server.config.document import ListNode, MapNode, Node, NodeKind, Scalar
from hostmanager_server.config.environment_keys import EnvFilePath, read_env_files, read_env_inherit
from hostmanager_server.config.hooks import read_hook
from hostmanager_server.config.labels import read_labels
from hostmanager_server.config.node_reader import Entry, Reader, describe, hint_at, shown
from hostmanager_server.config.probes import read_alive, read_ready
from hostmanager_server.config.process_keys import (
    read_group,
    read_nice,
    read_signal,
    read_success_codes,
    read_umask,
    read_user,
)
from hostmanager_server.config.quantities import parse_size
from hostmanager_server.config.schedule import read_schedule
from hostmanager_server.core.spec import (
    STOP_GRACE,
    TERM_GRACE,
    Backoff,
    Hook,
    LivenessProbe,
    ReadinessProbe,
    RestartPolicy,
    RestartWhen,
    Schedule,
    StartCondition,
    StopPolicy,
)

T = TypeVar("T")

DAY = 86_400.0  # s
MAX_LIMIT = 2**62
LOG_SIZES = (4096, 2**50)  # bytes
MEMORY_SIZES = (2**20, 2**50)  # bytes
MAX_LOGS_KEPT = 1000
LIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "sigpending", "stack",
)  # fmt: skip
KEYS = (
    "alive", "command", "depends-on", "env", "env-file", "env-inherit", "group", "labels", "limits", "log",
    "memory", "nice", "on-failure", "on-recover", "ready", "restart", "restart-above", "restart-dependents",
    "run-arguments", "schedule", "start-timeout", "stop-signal", "stop-timeout", "success-codes", "umask",
    "up-after", "user", "working-dir",
)  # fmt: skip
PLACED = ("command", "group", "ready", "user", "working-dir")
RESTART_KEYS = ("policy", "backoff", "give-up-after")
MAX_FAILURES = 1_000_000
BACKOFF_KEYS = ("initial", "factor", "maximum", "reset-after")
LOG_KEYS = ("size", "keep")


@dataclass(frozen=True, slots=True)
class Dependency:
    """An id in `depends-on`, its place in the site config, and its condition, if given."""

    instance_id: str
    node: Node
    condition: StartCondition | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """The values of `log`.

    A file of `size` bytes is rotated; `keep` is the number of rotated files.
    """

    size: int | None = None
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceKeys:
    """The values of the keys; None, or empty, for a key that is not given."""

    alive: LivenessProbe | None = None
    command: tuple[str, ...] | None = None
    depends_on: tuple[Dependency, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    env_files: tuple[EnvFilePath, ...] = ()
    env_inherit: tuple[str, ...] | None = None
    group: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int | None] = field(default_factory=dict)  # None: unlimited
    log: Log = Log()
    memory: int | None = None  # bytes
    nice: int | None = None
    on_failure: Hook | None = None
    on_recover: Hook | None = None
    ready: ReadinessProbe | None = None
    restart: RestartPolicy | None = None
    restart_above: int | None = None  # bytes
    restart_dependents: bool | None = None
    run_arguments: bool | None = None
    schedule: Schedule | None = None
    start_timeout: float | None = None
    stop_signal: int | None = None
    stop_timeout: tuple[float, float] | None = None  # s after the stop signal, s after TERM
    success_codes: tuple[int, ...] | None = None
    umask: int | None = None
    up_after: float | None = None
    user: str | None = None
    working_dir: str | None = None
    # Where some of the keys stand; equal keys may stand elsewhere.
    places: Mapping[str, Node] = field(default_factory=dict, compare=False, repr=False)

    @property
    def stop(self) -> StopPolicy:
        """Return the stop policy, with defaults for missing keys."""
        grace, term_grace = self.stop_timeout or (STOP_GRACE, TERM_GRACE)
        return StopPolicy(_or(self.stop_signal, signal.SIGINT), grace, term_grace)


def merge(over: InstanceKeys, under: InstanceKeys) -> InstanceKeys:
    """Merge the keys of an instance (`over`) and of its class (`under`).

    The merge goes key by key; `env`, `labels`, `limits` and `log` merge name by name, and the lists of
    `env-file` are joined, the class's files first.
    """
    return InstanceKeys(
        alive=_or(over.alive, under.alive),
        command=_or(over.command, under.command),
        depends_on=_or(over.depends_on, under.depends_on),
        env={**under.env, **over.env},
        env_files=(*under.env_files, *over.env_files),
        env_inherit=_or(over.env_inherit, under.env_inherit),
        group=_or(over.group, under.group),
        labels={**under.labels, **over.labels},
        limits={**under.limits, **over.limits},
        log=Log(_or(over.log.size, under.log.size), _or(over.log.keep, under.log.keep)),
        memory=_or(over.memory, under.memory),
        nice=_or(over.nice, under.nice),
        on_failure=_or(over.on_failure, under.on_failure),
        on_recover=_or(over.on_recover, under.on_recover),
        ready=_or(over.ready, under.ready),
        restart=_or(over.restart, under.restart),
        restart_above=_or(over.restart_above, under.restart_above),
        restart_dependents=_or(over.restart_dependents, under.restart_dependents),
        run_arguments=_or(over.run_arguments, under.run_arguments),
        schedule=_or(over.schedule, under.schedule),
        start_timeout=_or(over.start_timeout, under.start_timeout),
        stop_signal=_or(over.stop_signal, under.stop_signal),
        stop_timeout=_or(over.stop_timeout, under.stop_timeout),
        success_codes=_or(over.success_codes, under.success_codes),
        umask=_or(over.umask, under.umask),
        up_after=_or(over.up_after, under.up_after),
        user=_or(over.user, under.user),
        working_dir=_or(over.working_dir, under.working_dir),
        places={**under.places, **over.places},
    )


def read_settings(
    reader: Reader, entries: Mapping[str, Entry], label: str, working_dir: Path
) -> InstanceKeys:
    """Return the values of the entries with names in KEYS.

    `label` names the owner of the entries in messages. Relative paths are relative to `working_dir`, except
    in `env-file`.
    """

    def read(name: str, how: Callable[[Reader, Node, str], T]) -> T | None:
        return how(reader, entries[name].value, f"{name!r} of {label}") if name in entries else None

    def hook(reader: Reader, node: Node, label: str) -> Hook | None:
        return read_hook(reader, node, label, str(working_dir))

    return InstanceKeys(
        alive=read("alive", read_alive),
        command=read("command", read_command),
        depends_on=read("depends-on", _depends_on),
        env=read("env", _env) or {},
        env_files=read("env-file", lambda r, node, label: read_env_files(r, node, label, r.folder(node)))
        or (),
        env_inherit=read("env-inherit", read_env_inherit),
        group=read("group", read_group),
        labels=dict(read("labels", read_labels) or []),
        limits=read("limits", _limits) or {},
        log=read("log", _log) or Log(),
        memory=read("memory", _memory),
        nice=read("nice", read_nice),
        on_failure=read("on-failure", hook),
        on_recover=read("on-recover", hook),
        ready=read("ready", read_ready),
        restart=read("restart", _restart),
        restart_above=read("restart-above", _memory),
        restart_dependents=read("restart-dependents", _boolean),
        run_arguments=read("run-arguments", _boolean),
        schedule=read("schedule", read_schedule),
        start_timeout=read("start-timeout", lambda r, node, label: r.seconds(node, label, 0.01, DAY)),
        stop_signal=read("stop-signal", read_signal),
        stop_timeout=read("stop-timeout", _stop_timeout),
        success_codes=read("success-codes", read_success_codes),
        umask=read("umask", read_umask),
        up_after=read("up-after", lambda r, node, label: r.seconds(node, label, 0, DAY)),
        user=read("user", read_user),
        working_dir=read("working-dir", lambda r, node, label: read_path(r, node, label, working_dir)),
        places={name: entries[name].value for name in PLACED if name in entries},
    )


def read_path(reader: Reader, node: Node, label: str, working_dir: Path) -> str | None:
    """Return an absolute path: `~` is the user's home.

    A relative path is relative to `working_dir`.
    """
    text = reader.text(node, label)
    if text is None:
        return None
    if not text:
        reader.error(node, f"{label} must be a path, not an empty text")
        return None
    try:
        return str(working_dir / reader.machine.expand_home(text))
    except RuntimeError as error:  # `~user` names no user of this machine
        reader.error(node, f"{label} is {shown(text)}, which cannot be found: {error}")
        return None


def _or(first: T | None, second: T) -> T:
    return second if first is None else first


def _depends_on(reader: Reader, node: Node, label: str) -> tuple[Dependency, ...]:
    """Return the dependencies: a list of ids, or a mapping from ids to conditions."""
    found: dict[str, Dependency] = {}
    if isinstance(node, MapNode):
        for instance_id, entry in reader.mapping(node, label).items():
            condition = _condition(reader, entry.value, f"{shown(instance_id)} in {label}")
            found[instance_id] = Dependency(instance_id, entry.key, condition)
        return tuple(found.values())
    for child in reader.sequence(node, label):
        name = reader.text(child, f"an entry of {label}")
        if name is not None:
            found.setdefault(name, Dependency(name, child))
    return tuple(found.values())


def _boolean(reader: Reader, node: Node, label: str) -> bool | None:
    if isinstance(node, Scalar) and node.kind is NodeKind.BOOLEAN:
        return node.text.lower() in ("true", "yes", "on")
    reader.error(node, f"{label} must be true or false, not {describe(node)}")
    return None


def _condition(reader: Reader, node: Node, label: str) -> StartCondition | None:
    """Return the condition: a word, or a mapping with the key `condition`, as in compose files."""
    if isinstance(node, MapNode):
        entries = reader.mapping(node, label)
        reader.check_keys(entries, ("condition",), label)
        if "condition" not in entries:
            return None
        node, label = entries["condition"].value, f"'condition' of {label}"
    word = reader.choice(node, label, [condition.value for condition in StartCondition])
    return None if word is None else StartCondition(word)


def _env(reader: Reader, node: Node, label: str) -> dict[str, str]:
    env = {}
    for name, entry in reader.mapping(node, label).items():
        if not name or "=" in name or "\0" in name:
            reader.error(entry.key, f"{shown(name)} in {label} is no name for an environment variable")
            continue
        value = reader.text(entry.value, f"{shown(name)} in {label}")
        if value is not None:
            env[name] = value
    return env


def _memory(reader: Reader, node: Node, label: str) -> int | None:
    return reader.size(node, label, *MEMORY_SIZES)


def _limits(reader: Reader, node: Node, label: str) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for name, entry in reader.mapping(node, label).items():
        value = entry.value
        if name not in LIMITS:
            reader.error(entry.key, f"{label} has no limit {shown(name)} ({hint_at(name, LIMITS)})")
        elif isinstance(value, Scalar) and value.text == "unlimited":
            limits[name] = None
        else:
            limits[name] = _limit(reader, value, f"{name!r} in {label}")
    return limits


def _limit(reader: Reader, node: Node, label: str) -> int:
    value = parse_size(node.text) if isinstance(node, Scalar) else None
    if value is not None and value <= MAX_LIMIT:
        return value
    reader.error(node, f"{label} must be 'unlimited' or a number, such as 1024 or 512M, not {describe(node)}")
    return 0


def _log(reader: Reader, node: Node, label: str) -> Log:
    entries = reader.mapping(node, label)
    reader.check_keys(entries, LOG_KEYS, label)
    size = keep = None
    if "size" in entries:
        size = reader.size(entries["size"].value, f"'size' in {label}", *LOG_SIZES)
    if "keep" in entries:
        keep = reader.whole(entries["keep"].value, f"'keep' in {label}", 0, MAX_LOGS_KEPT)
    return Log(size, keep)


def _stop_timeout(reader: Reader, node: Node, label: str) -> tuple[float, float] | None:
    nodes = node.items if isinstance(node, ListNode) else (node,)
    if len(nodes) not in (1, 2):
        reader.error(node, f"{label} must be a time, or two: after the stop signal, and after TERM")
        return None
    times = [reader.seconds(child, label, 0, DAY) for child in nodes]
    grace, term_grace = (*times, TERM_GRACE)[:2]
    return (grace, term_grace) if grace is not None and term_grace is not None else None


def _restart(reader: Reader, node: Node, label: str) -> RestartPolicy:
    if isinstance(node, Scalar):
        return RestartPolicy(_policy(reader, node, label))
    entries = reader.mapping(node, label)
    reader.check_keys(entries, RESTART_KEYS, label)
    when, backoff, give_up_after = RestartWhen.ALWAYS, Backoff(), None
    if "policy" in entries:
        when = _policy(reader, entries["policy"].value, f"'policy' in {label}")
    if "backoff" in entries:
        backoff = _backoff(reader, entries["backoff"].value, f"'backoff' in {label}")
    if "give-up-after" in entries:
        give_up = entries["give-up-after"].value
        give_up_after = reader.whole(give_up, f"'give-up-after' in {label}", 1, MAX_FAILURES)
        if when is RestartWhen.NEVER:
            reader.warn(give_up, f"'give-up-after' in {label} has no effect: the policy is never")
    return RestartPolicy(when, backoff, give_up_after)


def _policy(reader: Reader, node: Node, label: str) -> RestartWhen:
    word = reader.choice(node, label, [when.value for when in RestartWhen])
    return RestartWhen.ALWAYS if word is None else RestartWhen(word)


def _backoff(reader: Reader, node: Node, label: str) -> Backoff:
    entries = reader.mapping(node, label)
    reader.check_keys(entries, BACKOFF_KEYS, label)
    default = Backoff()

    def seconds(name: str, otherwise: float) -> float:
        if name not in entries:
            return otherwise
        return _or(reader.seconds(entries[name].value, f"{name!r} in {label}", 0, DAY), otherwise)

    factor = default.factor
    if "factor" in entries:
        factor = _or(reader.number(entries["factor"].value, f"'factor' in {label}", 1, 100), factor)
    backoff = Backoff(
        initial=seconds("initial", default.initial),
        factor=factor,
        maximum=seconds("maximum", default.maximum),
        reset_after=seconds("reset-after", default.reset_after),
    )
    if "initial" in entries and backoff.initial > backoff.maximum:
        reader.warn(
            entries["initial"].value, f"'initial' in {label} is more than 'maximum', {backoff.maximum:.15g} s"
        )
    return backoff
