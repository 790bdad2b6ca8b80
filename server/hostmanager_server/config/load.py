"""The loader of the site config file, for one host or for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from hostmanager.values import dataclass, field, replace

from hostmanager_server.config.document import DocumentError, MapNode, Node, compose
from hostmanager_server.config.environment_keys import read_env_inherit
from hostmanager_server.config.file import read_text
from hostmanager_server.config.hooks import NAMES as HOOK_NAMES
from hostmanager_server.config.hooks import read_hooks
from hostmanager_server.config.hosts import choose_host, read_address, report_missing_host
from hostmanager_server.config.includes import KEY as INCLUDE
from hostmanager_server.config.includes import joined, read_included
from hostmanager_server.config.instance_keys import KEYS, InstanceKeys, read_path, read_settings
from hostmanager_server.config.instances import HostInstances, read_instances
from hostmanager_server.config.kept_entries import ShortText
from hostmanager_server.config.labels import Labels, read_labels
from hostmanager_server.config.launchers import Launchers
from hostmanager_server.config.machine import MachineFacts
from hostmanager_server.config.manager_options import ManagerOptions
from hostmanager_server.config.node_reader import MAX_PROBLEMS, Entry, Reader, is_null, shown
from hostmanager_server.config.read_entry import ParseContext
from hostmanager_server.config.secrets import MAX_FOUND, find_secrets
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import HostSpec
from hostmanager_server.linux.trusted_paths import Trust

# Keys that OCS reads from `hub`, a host and its `crossbar` (ocs/site_config.py), and keys that only the
# documents of OCS mention. The daemon has no router, and uses none of these keys.
HUB_KEYS = ("wamp_server", "wamp_http", "wamp_realm", "address_root", "access_policy", "registry_address")
CROSSBAR_KEYS = ("bin", "config-dir")
IGNORED_HOST_KEYS = (
    "agent-paths", "crossbar", "crossbar-timeout", "crossbar_timeout", "wamp_http", "wamp_realm",
    "wamp_server",
)  # fmt: skip

TOP_KEYS = ("hub", "hosts", "agent-classes", INCLUDE)
HOST_KEYS = (
    "agent-instances", "log-dir", "address", "env-inherit", "labels", *HOOK_NAMES, *IGNORED_HOST_KEYS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The content of a site config for one host.

    `spec` is None if the file has errors. A `stale` config has errors too, but its `spec` is from the last
    file without errors.
    """

    file: str
    host: str
    spec: HostSpec | None
    options: ManagerOptions = field(default_factory=ManagerOptions)
    problems: tuple[Problem, ...] = ()
    local: bool = True  # the host entry is the one of this machine
    text: str = field(default="", repr=False)
    stale: bool = False
    included: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # paths and texts
    # The instances, those of entries with errors as not operable; None if errors concern the whole file.
    partial: HostSpec | None = None
    left_out: tuple[str, ...] = ()  # the entries with errors: their ids, or places in words

    @property
    def ok(self) -> bool:
        """Return whether the daemon can use the file as it is."""
        return self.spec is not None and not self.stale and not self.left_out

    def without_bad_entries(self) -> LoadedConfig:
        """Return the config with the partial spec, if there is one; the config is not `ok`."""
        return self if self.partial is None or self.spec is not None else replace(self, spec=self.partial)


def default_site_file(environ: Mapping[str, str]) -> Path:
    """Return $OCS_CONFIG_DIR/default.yaml, as OCS does.

    Raises ValueError if the variable is not set.
    """
    folder = environ.get("OCS_CONFIG_DIR")
    if not folder:
        raise ValueError(
            "cannot find a site config file: name a file, or set OCS_CONFIG_DIR to the folder of default.yaml"
        )
    return Path(folder) / "default.yaml"


def with_config_dir(environ: Mapping[str, str], site_file: Path) -> dict[str, str]:
    """Return the environment with OCS_CONFIG_DIR, where agents of OCS look for the site config.

    Without a value, the variable names the folder of the site file.
    """
    folder = environ.get("OCS_CONFIG_DIR") or str(site_file.absolute().parent)
    return {**environ, "OCS_CONFIG_DIR": folder}


def load_site_config(
    file: Path,
    *,
    host: str | None = None,
    working_dir: Path | None = None,
    text: str | None = None,
    included: Sequence[tuple[str, str]] = (),
    most_problems: int = MAX_PROBLEMS,
    trust: Trust | None = None,
) -> LoadedConfig:
    """Load `file` for `host`; None means the name of this machine, else `localhost`.

    The function never raises for the content of the file: the result lists the `problems`, up to
    `most_problems`, and the number of the others. Relative paths in the file are relative to `working_dir`
    (None: the current directory). `text`, if given, takes the place of the file's content, and `included`
    those of included files. `trust` decides whether other users may be able to write the files (None: the
    rule for the user of this process).
    """
    machine = None if text is None else MachineFacts.with_copies(included)
    source = read_source(file, working_dir, text, most_problems, trust, machine)
    return read_config(source, host).config


def load_all_hosts(
    file: Path,
    *,
    working_dir: Path | None = None,
    most_problems: int = MAX_PROBLEMS,
    trust: Trust | None = None,
) -> list[LoadedConfig]:
    """Load `file` for each of its hosts.

    Without hosts, the only result has the problems.
    """
    found = read_all_hosts(file, working_dir=working_dir, most_problems=most_problems, trust=trust)
    return [read.config for read in found]


def read_all_hosts(
    file: Path, *, working_dir: Path | None, most_problems: int, trust: Trust | None
) -> list[ReadConfig]:
    """Read `file` for each of its hosts; see `load_all_hosts`."""
    site = _read_site(read_source(file, working_dir, None, most_problems, trust))
    if not site.hosts:
        return [ReadConfig(LoadedConfig(site.file, "", None, problems=site.reader.problems))]
    own, launchers = choose_host(site.hosts, None), site.launchers()
    return [_read_host(site, launchers, name, local=name == own) for name in site.hosts]


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text of a site config file, or None with the reason among the problems of `reader`."""

    text: str | None
    public: bool  # all users may read the file
    working_dir: Path
    reader: Reader  # with the problems of the file itself
    trust: Trust


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """A site config for one host, and the parts of it that a later reading may keep."""

    config: LoadedConfig
    launchers: Launchers | None = None  # None: the config has no entry for the host
    context: ParseContext | None = None
    nodes: tuple[Node, ...] = ()
    instances: HostInstances | None = None
    complete: bool = False  # `config` has all problems and all secrets, none dropped
    reader: Reader | None = None
    host_nodes: Mapping[str, Node] = field(default_factory=dict)  # the keys of the host
    hub: tuple[Node, Sequence[str]] | None = None  # with its keys


@dataclass(frozen=True, slots=True)
class _Site:
    """The part of a site config that all hosts share."""

    file: str
    working_dir: Path
    hosts: Mapping[str, Entry]
    classes: Mapping[str, InstanceKeys]
    bad_classes: Mapping[str, Problem]
    reader: Reader  # with the problems of the shared part
    text: str
    included: tuple[tuple[str, str], ...] = ()
    complete: bool = True
    hub: tuple[Node, Sequence[str]] | None = None

    def launchers(self) -> Launchers:
        """Return the sources of commands, with those of `agent-classes`."""
        commands = {cls: given.command for cls, given in self.classes.items() if given.command is not None}
        return Launchers(Path(self.file).absolute(), self.working_dir, commands)


def read_source(
    file: Path,
    working_dir: Path | None,
    text: str | None,
    most_problems: int,
    trust: Trust | None,
    machine: MachineFacts | None = None,
) -> SourceText:
    """Read the text of a file, unless the caller has it."""
    reader = Reader(str(file), most_problems, machine)
    public = False
    trust = trust or Trust.of_this_process()
    if text is None:
        text, public = _text(reader, file, trust)
    return SourceText(text, public, (working_dir or Path()).absolute(), reader, trust)


def read_config(source: SourceText, host: str | None, short: ShortText | None = None) -> ReadConfig:
    """Read the config for `host`, from the short text if given."""
    site = _read_site(source, short)
    name = choose_host(site.hosts, host)
    if name is None:
        reader = site.reader.fork()
        if site.hosts:
            report_missing_host(reader, site.hosts, host)
        return ReadConfig(LoadedConfig(site.file, host or "", None, problems=reader.problems))
    return _read_host(site, site.launchers(), name, local=True, short=short)


def _read_site(source: SourceText, short: ShortText | None = None) -> _Site:
    reader = source.reader.fork()
    hosts: dict[str, Entry] = {}
    classes: dict[str, InstanceKeys] = {}
    bad_classes: dict[str, Problem] = {}
    complete = True
    document = None
    if source.text is not None:
        document = _document(reader, source.text if short is None else short.text, short)
    texts: tuple[tuple[str, str], ...] = ()
    hub: tuple[Node, Sequence[str]] | None = None
    if document is not None:
        files = read_included(reader, document, source.trust)
        texts = tuple((file.path, file.text) for file in files)
        public = [document] if source.public else []
        public += [file.document for file in files if file.public and file.document is not None]
        complete = max((_warn_of_secrets(reader, each) for each in public), default=0) < MAX_FOUND
        document = joined(document, files)
        top = reader.mapping(document, "the site config")
        reader.check_keys(top, TOP_KEYS, "the site config")
        if "hub" in top:
            keys = reader.mapping(top["hub"].value, "'hub'")
            reader.check_keys(keys, HUB_KEYS, "'hub'")
            hub = top["hub"].key, tuple(keys)
        if "agent-classes" in top:
            classes, bad_classes = _read_classes(reader, top["agent-classes"].value, source.working_dir)
        hosts = _read_hosts(reader, document, top)
    text = source.text or ""
    return _Site(
        reader.file, source.working_dir, hosts, classes, bad_classes, reader, text, texts, complete, hub
    )


def _text(reader: Reader, file: Path, trust: Trust) -> tuple[str | None, bool]:
    """Return the file's text, and whether all users may read the file."""
    try:
        text, writers, public = read_text(file, trust)
    except DocumentError as error:
        _note(reader, error)
        return None, False
    for warning in writers:
        reader.warn(None, warning)
    return text, public


def _warn_of_secrets(reader: Reader, document: Node) -> int:
    """Warn of the first MAX_FOUND secrets, and return their number."""
    found = list(islice(find_secrets(document), MAX_FOUND))
    for secret in found:
        text = f"{shown(secret.path)} looks like a secret, and everybody on this machine may read this file"
        reader.warn(secret.node, f"{text}; put the value into an 'env-file', or chmod o-r this one")
    return len(found)


def _note(reader: Reader, error: DocumentError) -> None:
    reader.note(Problem(Severity.ERROR, error.message, reader.file, error.line, error.column))


def _document(reader: Reader, text: str, short: ShortText | None) -> Node | None:
    try:
        document = compose(text, short.measures if short is not None else {})
    except DocumentError as error:
        _note(reader, error)
        return None
    if document is None:
        reader.error(None, "the file is empty; add 'hosts' with an entry for this host")
    return document


def _read_classes(
    reader: Reader, node: Node, working_dir: Path
) -> tuple[dict[str, InstanceKeys], dict[str, Problem]]:
    """Return the keys of the classes, and the first error of each class that has any."""
    classes, bad = {}, {}
    for name, entry in reader.mapping(node, "'agent-classes'").items():
        label = f"agent class {shown(name)}"
        with reader.entry() as mistakes:
            entries = reader.mapping(entry.value, label)
            reader.check_keys(entries, KEYS, label)
            classes[name] = read_settings(reader, entries, label, working_dir)
        if mistakes:
            bad[name] = mistakes[0]
    return classes, bad


def _read_hosts(reader: Reader, document: Node, top: Mapping[str, Entry]) -> dict[str, Entry]:
    if "hosts" not in top:
        if isinstance(document, MapNode):
            reader.error(document, "the site config has no 'hosts'")
        return {}
    value = top["hosts"].value
    hosts = reader.mapping(value, "'hosts'")
    if not hosts and (isinstance(value, MapNode) or is_null(value)):
        reader.error(value, "'hosts' has no entry; add an entry for this host")
    return hosts


def _read_host(
    site: _Site, launchers: Launchers, name: str, *, local: bool, short: ShortText | None = None
) -> ReadConfig:
    reader = site.reader.fork()
    label = f"host {shown(name)}"
    host = site.hosts[name]
    entries = reader.mapping(host.value, label)
    reader.check_keys(entries, HOST_KEYS, label)
    if "crossbar" in entries:
        crossbar = reader.mapping(entries["crossbar"].value, f"'crossbar' of {label}")
        reader.check_keys(crossbar, CROSSBAR_KEYS, f"'crossbar' of {label}")
    log_dir = ""
    if "log-dir" in entries and not is_null(entries["log-dir"].value):
        log_dir_label = f"'log-dir' of {label}"
        log_dir = read_path(reader, entries["log-dir"].value, log_dir_label, site.working_dir) or ""
    nodes: tuple[Node, ...] = ()
    if "agent-instances" in entries:
        nodes = reader.sequence(entries["agent-instances"].value, f"'agent-instances' of {label}")
    elif isinstance(host.value, MapNode) or is_null(host.value):
        reader.error(host.key, f"{label} has no 'agent-instances'; add a list, which may be empty")
    launchers.report_problems((lambda problem: reader.warn(None, problem)) if local else _ignore)
    env_inherit = None
    if "env-inherit" in entries:
        env_inherit = read_env_inherit(reader, entries["env-inherit"].value, f"'env-inherit' of {label}")
    labels: Labels = ()
    if "labels" in entries:
        labels = read_labels(reader, entries["labels"].value, f"'labels' of {label}") or ()
    hooks = read_hooks(reader, entries, label, str(site.working_dir))
    context = ParseContext(
        name, site.classes, launchers, log_dir, local, env_inherit, site.bad_classes, hooks, labels
    )
    instances = read_instances(reader, nodes, context, short.kept if short is not None else {})
    options = instances.options
    if "address" in entries:
        address = read_address(reader, entries["address"].value, f"'address' of {label}")
        options = replace(options, address=address)
    spec = None if reader.failed else HostSpec(name, instances.specs, labels)
    partial = None
    if reader.failed and not reader.file_failed:
        specs = {each.instance_id: each for each in instances.specs} | dict(instances.bad)
        order = dict.fromkeys((*instances.read, *instances.bad))
        partial = HostSpec(name, tuple(specs[each] for each in order if each in specs), labels)
    config = LoadedConfig(
        site.file, name, spec, options, reader.problems, local, site.text,
        included=site.included, partial=partial, left_out=(*instances.bad, *instances.nameless),
    )  # fmt: skip
    complete = site.complete and reader.complete
    host_nodes = {name: entry.value for name, entry in entries.items()}
    return ReadConfig(config, launchers, context, nodes, instances, complete, reader, host_nodes, site.hub)


def _ignore(problem: str) -> None:
    """Drop a problem of another host."""
