"""The keys `ready` and `alive`: the probes that decide when an instance is up, and when it hangs."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from hostmanager_server.config.command_line import read_command
from hostmanager_server.config.document import MapNode, Node, Scalar
from hostmanager_server.config.node_reader import Entry, Reader, describe, shown
from hostmanager_server.config.quantities import parse_whole
from hostmanager_server.core.spec import (
    CommandProbe,
    HealthCheckProbe,
    HttpProbe,
    LivenessProbe,
    ReadinessProbe,
    TcpProbe,
)

PROBES = ("tcp", "http", "command")
READY_KEYS = (*PROBES, "interval", "timeout")
ALIVE_KEYS = (*PROBES, "interval", "timeout", "failures", "delay")
HEALTHCHECK = "healthcheck"  # the word of `alive` for the health check of the compose file
MAX_FAILURES = 1000
HOUR = 3600.0  # s


def read_ready(reader: Reader, node: Node, label: str) -> ReadinessProbe | None:
    """Return the probe, of exactly one of the PROBES, or None after an error."""
    if not isinstance(node, MapNode):
        reader.error(node, f"{label} must be a mapping, such as {{tcp: 5000}}, not {describe(node)}")
        return None
    entries = reader.mapping(node, label)
    reader.check_keys(entries, READY_KEYS, label)
    check = _only_check(reader, node, entries, label)
    interval = _seconds(reader, entries, "interval", label)
    timeout = _seconds(reader, entries, "timeout", label)
    if check is None:
        return None
    default = ReadinessProbe(check)
    return ReadinessProbe(
        check,
        default.interval if interval is None else interval,
        default.timeout if timeout is None else timeout,
    )


def read_alive(reader: Reader, node: Node, label: str) -> LivenessProbe | None:
    """Return the probe, of one of the PROBES or the word HEALTHCHECK, or None after an error."""
    if isinstance(node, Scalar) and node.text == HEALTHCHECK:
        return LivenessProbe(HealthCheckProbe())
    if not isinstance(node, MapNode):
        text = f"such as {{tcp: 5000}}, or the word {HEALTHCHECK} (compose services), not {describe(node)}"
        reader.error(node, f"{label} must be a mapping, {text}")
        return None
    entries = reader.mapping(node, label)
    reader.check_keys(entries, ALIVE_KEYS, label)
    check = _only_check(reader, node, entries, label)
    interval = _seconds(reader, entries, "interval", label)
    timeout = _seconds(reader, entries, "timeout", label)
    delay = _seconds(reader, entries, "delay", label, least=0.0)
    failures = None
    if "failures" in entries:
        failures = reader.whole(entries["failures"].value, f"'failures' in {label}", 1, MAX_FAILURES)
    if check is None:
        return None
    default = LivenessProbe(check)
    interval = default.interval if interval is None else interval
    return LivenessProbe(
        check,
        interval,
        default.timeout if timeout is None else timeout,
        default.failures if failures is None else failures,
        interval if delay is None else delay,
    )


def check_probes(
    reader: Reader,
    entries: Mapping[str, Entry],
    class_node: Node,
    probes: Mapping[str, ReadinessProbe | LivenessProbe | None],
    label: str,
    *,
    service: bool,
) -> None:
    """Report the probes, by key, of an instance and its class that its kind of management cannot run."""
    for key, probe in probes.items():
        node = entries[key].value if key in entries else class_node
        whose = label if key in entries else f"the class of {label}"
        if service and probe is not None and isinstance(probe.check, CommandProbe):
            others = "tcp or http" if key == "ready" else f"tcp, http or {HEALTHCHECK}"
            why = f"as the instance is a compose service: use {others}"
            reader.error(node, f"{key!r} of {whose} cannot be a command, {why}")
        elif not service and probe is not None and isinstance(probe.check, HealthCheckProbe):
            why = "as the instance is no compose service: use tcp, http or command"
            reader.error(node, f"{key!r} of {whose} cannot be {HEALTHCHECK}, {why}")


def _only_check(
    reader: Reader, node: Node, entries: Mapping[str, Entry], label: str
) -> TcpProbe | HttpProbe | CommandProbe | None:
    kinds = [kind for kind in PROBES if kind in entries]
    if len(kinds) != 1:
        given = f", not {' and '.join(kinds)}" if kinds else ""
        reader.error(node, f"{label} needs one of tcp: HOST:PORT, http: URL or command: WORDS{given}")
        return None
    return _check(reader, kinds[0], entries[kinds[0]].value, f"{kinds[0]!r} in {label}")


def _seconds(
    reader: Reader, entries: Mapping[str, Entry], name: str, label: str, least: float = 0.01
) -> float | None:
    if name not in entries:
        return None
    return reader.seconds(entries[name].value, f"{name!r} in {label}", least, HOUR)


def _check(reader: Reader, kind: str, node: Node, label: str) -> TcpProbe | HttpProbe | CommandProbe | None:
    if kind == "command":
        argv = read_command(reader, node, label)
        return CommandProbe(argv) if argv is not None else None
    text = reader.text(node, label)
    if text is None:
        return None
    return _http(reader, node, label, text) if kind == "http" else _tcp(reader, node, label, text)


def _http(reader: Reader, node: Node, label: str, url: str) -> HttpProbe | None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # unmatched brackets, or an invalid port
        good = False
    if good and url.isascii() and url.isprintable() and " " not in url:
        return HttpProbe(url)
    reader.error(node, f"{label} must be a URL such as http://127.0.0.1:8000/health, not {shown(url)}")
    return None


def _tcp(reader: Reader, node: Node, label: str, text: str) -> TcpProbe | None:
    host, _, digits = text.rpartition(":")
    port = parse_whole(digits)
    if port is None or not 0 < port < 65536 or not host.isprintable() or " " in host:
        reader.error(node, f"{label} must be HOST:PORT, such as 127.0.0.1:5000, or a port, not {shown(text)}")
        return None
    return TcpProbe(host.removeprefix("[").removesuffix("]") or "127.0.0.1", port)
