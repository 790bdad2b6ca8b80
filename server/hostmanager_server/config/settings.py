"""The keys that an instance, or its class under `agent-classes`, may have beside those of OCS."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from yaml.nodes import Node, ScalarNode, SequenceNode

from hostmanager_server.config.reader import Entry, Reader, suggest
from hostmanager_server.core.spec import (
    STOP_GRACE,
    TERM_GRACE,
    Backoff,
    CommandProbe,
    HttpProbe,
    Probe,
    RestartPolicy,
    RestartWhen,
    StopPolicy,
    TcpProbe,
)

DAY = 86_400.0
LIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "sigpending", "stack",
)  # fmt: skip
KEYS = (
    "command", "depends-on", "env", "limits", "log", "ready", "restart", "start-timeout", "stop-signal",
    "stop-timeout", "user", "working-dir",
)  # fmt: skip
RESTART_KEYS = ("policy", "backoff")
BACKOFF_KEYS = ("initial", "factor", "maximum", "reset-after")
READY_KEYS = ("tcp", "http", "command", "interval", "timeout")
LOG_KEYS = ("size", "keep")


@dataclass(frozen=True, slots=True)
class Dependency:
    """An id in `depends-on`, and its place."""

    instance_id: str
    node: Node


@dataclass(frozen=True, slots=True)
class Settings:
    """What was given; None where nothing was."""

    command: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    user: str | None = None
    stop_signal: int | None = None
    stop_timeout: tuple[float, float] | None = None
    start_timeout: float | None = None
    restart: RestartPolicy | None = None
    ready: Probe | None = None
    depends_on: tuple[Dependency, ...] | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)
    log_size: int | None = None
    log_keep: int | None = None

    @property
    def stop(self) -> StopPolicy:
        grace, term_grace = self.stop_timeout or (STOP_GRACE, TERM_GRACE)
        return StopPolicy(signal.SIGINT if self.stop_signal is None else self.stop_signal, grace, term_grace)


def merge(over: Settings, under: Settings) -> Settings:
    """An instance's settings over its class's: key by key; `env` and `limits` name by name."""
    values = {
        name: getattr(under, name) if getattr(over, name) is None else getattr(over, name)
        for name in Settings.__slots__
    }
    values["env"] = {**under.env, **over.env}
    values["limits"] = {**under.limits, **over.limits}
    return Settings(**values)


def read_settings(reader: Reader, entries: Mapping[str, Entry], what: str, working_dir: Path) -> Settings:
    """Settings from those of the entries that are among KEYS."""
    values: dict[str, object] = {}
    for name in KEYS:
        if name not in entries:
            continue
        node = entries[name].value
        label = f"{name!r} of {what}"
        match name:
            case "command":
                values["command"] = _command(reader, node, label)
            case "env":
                values["env"] = _env(reader, node, label)
            case "working-dir":
                values["working_dir"] = str(working_dir / Path(reader.text(node, label)).expanduser())
            case "user":
                values["user"] = reader.text(node, label)
            case "stop-signal":
                values["stop_signal"] = _signal(reader, node, label)
            case "stop-timeout":
                values["stop_timeout"] = _stop_timeout(reader, node, label)
            case "start-timeout":
                values["start_timeout"] = reader.seconds(node, label, 0.01, DAY, 15.0)
            case "restart":
                values["restart"] = _restart(reader, node, label)
            case "ready":
                values["ready"] = _ready(reader, node, label)
            case "depends-on":
                values["depends_on"] = _depends_on(reader, node, label)
            case "limits":
                values["limits"] = _limits(reader, node, label)
            case "log":
                log = reader.mapping(node, label)
                reader.check_keys(log, LOG_KEYS, label)
                if "size" in log:
                    size = reader.size(log["size"].value, f"'size' in {label}", 4096, 2**50, 2**20)
                    values["log_size"] = size
                if "keep" in log:
                    values["log_keep"] = reader.whole(log["keep"].value, f"'keep' in {label}", 0, 1000, 5)
    return Settings(**values)  # type: ignore[arg-type]  # each value was read with the type of its field


def _command(reader: Reader, node: Node, what: str) -> tuple[str, ...]:
    if isinstance(node, SequenceNode):
        words = reader.words(node, what)
    else:
        try:
            words = shlex.split(reader.text(node, what))
        except ValueError as error:
            reader.error(node, f"{what} cannot be split into words: {error}; give a list instead")
            return ("false",)
    if not words or not words[0]:
        reader.error(node, f"{what} must name a program")
    if any("\0" in word for word in words):
        reader.error(node, f"{what} has a NUL character, which no argument may have")
    return tuple(words) or ("false",)


def _env(reader: Reader, node: Node, what: str) -> dict[str, str]:
    env = {}
    for name, entry in reader.mapping(node, what).items():
        if not name or "=" in name or "\0" in name:
            reader.error(entry.key, f"{name!r} in {what} is no name for an environment variable")
            continue
        value = reader.text(entry.value, f"{name!r} in {what}")
        if "\0" in value:
            reader.error(entry.value, f"{name!r} in {what} has a NUL character, which no variable may have")
        env[name] = value
    return env


def _signal(reader: Reader, node: Node, what: str) -> int:
    text = reader.text(node, what).upper()
    if text.isdigit() and 1 <= int(text) < signal.NSIG:
        return int(text)
    name = text if text.startswith("SIG") else f"SIG{text}"
    known = [s.name for s in signal.Signals]
    if name in known:
        return int(signal.Signals[name])
    hint = suggest(name, known) or "such as INT, TERM or 15"
    reader.error(node, f"{what} must be a signal, not {text!r} ({hint})")
    return signal.SIGINT


def _stop_timeout(reader: Reader, node: Node, what: str) -> tuple[float, float]:
    if not isinstance(node, SequenceNode):
        return reader.seconds(node, what, 0, DAY, STOP_GRACE), TERM_GRACE
    if len(node.value) != 2:
        reader.error(node, f"{what} must be a time, or two: after the stop signal, and after TERM")
        return STOP_GRACE, TERM_GRACE
    first, second = node.value
    return reader.seconds(first, what, 0, DAY, STOP_GRACE), reader.seconds(second, what, 0, DAY, TERM_GRACE)


def _restart(reader: Reader, node: Node, what: str) -> RestartPolicy:
    if isinstance(node, ScalarNode):
        return RestartPolicy(_policy(reader, node, what))
    entries = reader.mapping(node, what)
    reader.check_keys(entries, RESTART_KEYS, what)
    when, backoff = RestartWhen.ALWAYS, Backoff()
    if "policy" in entries:
        when = _policy(reader, entries["policy"].value, f"'policy' in {what}")
    if "backoff" in entries:
        label = f"'backoff' in {what}"
        given = reader.mapping(entries["backoff"].value, label)
        reader.check_keys(given, BACKOFF_KEYS, label)

        def seconds(name: str, default: float) -> float:
            if name not in given:
                return default
            return reader.seconds(given[name].value, f"{name!r} in {label}", 0, DAY, default)

        factor = backoff.factor
        if "factor" in given:
            factor = reader.number(given["factor"].value, f"'factor' in {label}", 1, 100, factor)
        backoff = Backoff(
            initial=seconds("initial", backoff.initial),
            factor=factor,
            maximum=seconds("maximum", backoff.maximum),
            reset_after=seconds("reset-after", backoff.reset_after),
        )
    return RestartPolicy(when, backoff)


def _policy(reader: Reader, node: Node, what: str) -> RestartWhen:
    text = reader.text(node, what)
    known = [when.value for when in RestartWhen]
    if text in known:
        return RestartWhen(text)
    hint = suggest(text, known)
    reader.error(node, f"{what} must be {', '.join(known[:-1])} or {known[-1]}, not {text!r} {hint}".rstrip())
    return RestartWhen.ALWAYS


def _ready(reader: Reader, node: Node, what: str) -> Probe | None:
    entries = reader.mapping(node, what)
    reader.check_keys(entries, READY_KEYS, what)
    kinds = [name for name in ("tcp", "http", "command") if name in entries]
    if len(kinds) != 1:
        reader.error(node, f"{what} needs one of tcp: HOST:PORT, http: URL or command: WORDS")
        return None
    probe = entries[kinds[0]].value
    label = f"{kinds[0]!r} in {what}"
    check: TcpProbe | HttpProbe | CommandProbe
    if kinds[0] == "command":
        check = CommandProbe(_command(reader, probe, label))
    elif kinds[0] == "http":
        url = reader.text(probe, label)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            reader.error(probe, f"{label} must be a URL such as http://127.0.0.1:8000/health, not {url!r}")
        check = HttpProbe(url)
    else:
        host, _, port = reader.text(probe, label).rpartition(":")
        if not port.isdigit() or not 0 < int(port) < 65536:
            reader.error(probe, f"{label} must be HOST:PORT, such as 127.0.0.1:5000")
            return None
        check = TcpProbe(host.strip("[]") or "127.0.0.1", int(port))
    interval, timeout = 0.5, 2.0
    if "interval" in entries:
        interval = reader.seconds(entries["interval"].value, f"'interval' in {what}", 0.01, 3600, interval)
    if "timeout" in entries:
        timeout = reader.seconds(entries["timeout"].value, f"'timeout' in {what}", 0.01, 3600, timeout)
    return Probe(check, interval, timeout)


def _depends_on(reader: Reader, node: Node, what: str) -> tuple[Dependency, ...]:
    found: dict[str, Dependency] = {}
    for child in reader.sequence(node, what):
        instance_id = reader.text(child, f"an entry of {what}")
        found.setdefault(instance_id, Dependency(instance_id, child))
    return tuple(found.values())


def _limits(reader: Reader, node: Node, what: str) -> dict[str, int | None]:
    limits: dict[str, int | None] = {}
    for name, entry in reader.mapping(node, what).items():
        if name not in LIMITS:
            hint = suggest(name, LIMITS) or f"known: {', '.join(LIMITS)}"
            reader.error(entry.key, f"{what} has no limit {name!r} ({hint})")
        elif reader.text(entry.value, f"{name!r} in {what}") == "unlimited":
            limits[name] = None
        else:
            limits[name] = reader.whole(entry.value, f"{name!r} in {what}", 0, 2**62, 0)
    return limits
