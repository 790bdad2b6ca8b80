"""The site config file, read for one host."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from yaml.nodes import Node

from hostmanager_server.config.instances import read_instances
from hostmanager_server.config.launchers import Launchers
from hostmanager_server.config.options import ManagerOptions
from hostmanager_server.config.reader import Entry, Reader, is_null, suggest
from hostmanager_server.config.settings import KEYS, Settings, read_settings
from hostmanager_server.core.manager import Problem
from hostmanager_server.core.spec import HostSpec

# The host entry that serves any machine which has none of its own name (OCS).
ANY_HOST = "localhost"

TOP_KEYS = ("hub", "hosts", "agent-classes")
HOST_KEYS = ("agent-instances", "log-dir", "crossbar", "crossbar_timeout", "address")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """What a file says about one host. `spec` is None when it has errors."""

    file: str
    host: str
    spec: HostSpec | None
    options: ManagerOptions = field(default_factory=ManagerOptions)
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return self.spec is not None


def default_site_file(environ: Mapping[str, str]) -> Path:
    """$OCS_CONFIG_DIR/default.yaml, as OCS. Raises ValueError when the variable is not set."""
    folder = environ.get("OCS_CONFIG_DIR")
    if not folder:
        raise ValueError("no site config file: name one, or set OCS_CONFIG_DIR to the folder of default.yaml")
    return Path(folder) / "default.yaml"


def load_site_config(file: Path, *, host: str | None = None, working_dir: Path | None = None) -> LoadedConfig:
    """Read `file` for `host` (None: this machine's name, else `localhost`). Never raises for what is in the
    file: what is wrong with it is in `problems`. Relative paths in it are relative to `working_dir`."""
    reader = Reader(str(file))
    hosts, classes = _read_top(reader, working_dir or Path.cwd())
    name = _choose(reader, hosts, host)
    if name is None:
        return LoadedConfig(reader.file, host or "", None, problems=tuple(reader.problems))
    return _read_host(reader, name, hosts[name], classes, working_dir or Path.cwd())


def load_all_hosts(file: Path, *, working_dir: Path | None = None) -> list[LoadedConfig]:
    """Read `file` for each of its hosts. When there is none, one result says why."""
    reader = Reader(str(file))
    hosts, _ = _read_top(reader, working_dir or Path.cwd())
    if not hosts:
        return [LoadedConfig(reader.file, "", None, problems=tuple(reader.problems))]
    return [load_site_config(file, host=name, working_dir=working_dir) for name in hosts]


def _read_top(reader: Reader, working_dir: Path) -> tuple[dict[str, Entry], dict[str, Settings]]:
    document = reader.document()
    if document is None:
        return {}, {}
    top = reader.mapping(document, "the site config")
    reader.check_keys(top, TOP_KEYS, "the site config")
    classes = {}
    if "agent-classes" in top:
        for name, entry in reader.mapping(top["agent-classes"].value, "'agent-classes'").items():
            what = f"agent class {name!r}"
            entries = reader.mapping(entry.value, what)
            reader.check_keys(entries, KEYS, what)
            classes[name] = read_settings(reader, entries, what, working_dir)
    if "hosts" not in top:
        reader.error(document, "the site config has no 'hosts'")
        return {}, classes
    hosts = reader.mapping(top["hosts"].value, "'hosts'")
    if not hosts and not reader.failed:
        reader.error(top["hosts"].value, "'hosts' has no entry; it needs one for this host")
    return hosts, classes


def _choose(reader: Reader, hosts: Mapping[str, Entry], host: str | None) -> str | None:
    if not hosts:
        return None
    names = [host] if host else _own_names()
    for name in (*names, ANY_HOST):
        if name in hosts:
            return name
    known = ", ".join(sorted(hosts))
    hint = suggest(names[0], hosts)
    text = f"has no host {names[0]!r}, and no {ANY_HOST!r} (hosts: {known}) {hint}".rstrip()
    reader.error(None, f"{text}; say which with --host")
    return None


def _own_names() -> list[str]:
    name = socket.gethostname()
    return list(dict.fromkeys((name, name.partition(".")[0])))


def _read_host(
    reader: Reader, name: str, entry: Entry, classes: Mapping[str, Settings], working_dir: Path
) -> LoadedConfig:
    what = f"host {name!r}"
    entries = reader.mapping(entry.value, what)
    reader.check_keys(entries, HOST_KEYS, what)
    log_dir = ""
    if "log-dir" in entries and not is_null(entries["log-dir"].value):
        text = reader.text(entries["log-dir"].value, f"'log-dir' of {what}")
        log_dir = str(working_dir / Path(text).expanduser())
    if "agent-instances" not in entries:
        reader.error(entry.key, f"{what} has no 'agent-instances'; give it a list, be it empty")
        nodes: Iterable[Node] = ()
    else:
        nodes = reader.sequence(entries["agent-instances"].value, f"'agent-instances' of {what}")
    commands = {cls: s.command for cls, s in classes.items() if s.command is not None}
    launchers = Launchers(Path(reader.file), name, working_dir, commands)
    instances, options = read_instances(reader, nodes, classes, launchers, log_dir)
    if "address" in entries:
        options = replace(options, address=reader.text(entries["address"].value, f"'address' of {what}"))
    spec = None if reader.failed else HostSpec(name, tuple(instances))
    return LoadedConfig(reader.file, name, spec, options, tuple(reader.problems))
