"""The `agent-instances` of one host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import Node

from hostmanager_server.config.launchers import Launchers
from hostmanager_server.config.options import ManagerOptions, read_options
from hostmanager_server.config.reader import Entry, Reader, is_null, suggest
from hostmanager_server.config.settings import KEYS, Settings, merge, read_settings
from hostmanager_server.core.plan import ALL
from hostmanager_server.core.spec import (
    START_TIMEOUT,
    InstanceSpec,
    LogPolicy,
    Management,
    ProcessSpec,
    RestartPolicy,
    Target,
)

# The class of the entry that is the daemon's own (OCS).
HOST_MANAGER = "HostManager"
OCS_KEYS = ("instance-id", "agent-class", "arguments", "manage")
# OCS takes any further key and hands it to the agent; these are the ones its own documents use.
ACCEPTED_KEYS = ("access-policy", "access_policy", "write-control", "privs", "description")

_HOST, _DOCKER = Management.HOST, Management.DOCKER
# What OCS's site_config.py makes of `manage`; YAML 1.1 takes an unquoted yes or no for a boolean.
MANAGE: Mapping[str, tuple[Management, Target] | None] = {
    "yes": (_HOST, Target.UP),
    "true": (_HOST, Target.UP),
    "on": (_HOST, Target.UP),
    "host": (_HOST, Target.UP),
    "up": (_HOST, Target.UP),
    "host/up": (_HOST, Target.UP),
    "down": (_HOST, Target.DOWN),
    "host/down": (_HOST, Target.DOWN),
    "docker": (_DOCKER, Target.UP),
    "docker/up": (_DOCKER, Target.UP),
    "docker/down": (_DOCKER, Target.DOWN),
    "no": None,
    "false": None,
    "off": None,
    "ignore": None,
}
NO_COMPOSE = "docker compose services are not supported by this version"


@dataclass(frozen=True, slots=True)
class _Instance:
    node: Node
    instance_id: str
    agent_class: str
    manage: tuple[Management, Target] | None  # None: not managed
    arguments: tuple[str, ...]
    settings: Settings


def read_instances(
    reader: Reader,
    nodes: Iterable[Node],
    classes: Mapping[str, Settings],
    launchers: Launchers,
    log_dir: str,
) -> tuple[list[InstanceSpec], ManagerOptions]:
    """The specs of the managed instances, in the file's order, and what the daemon's own entry says."""
    found: dict[str, _Instance] = {}
    options = ManagerOptions()
    for node in nodes:
        read = _read(reader, node, launchers.working_dir)
        if read is None:
            continue
        if read.instance_id in found:
            first = found[read.instance_id].node.start_mark.line + 1
            reader.error(node, f"instance-id {read.instance_id!r} is there twice (first in line {first})")
            continue
        found[read.instance_id] = read
        if read.agent_class == HOST_MANAGER:
            options = read_options(reader, node, read.arguments)
    managed = {i: r for i, r in found.items() if r.agent_class != HOST_MANAGER and r.manage is not None}
    specs = [_spec(r, merge(r.settings, classes.get(r.agent_class, Settings())), launchers, log_dir)
             for r in managed.values()]  # fmt: skip
    _check_dependencies(reader, found, managed, classes)
    return specs, options


def _read(reader: Reader, node: Node, working_dir: Path) -> _Instance | None:
    entries = reader.mapping(node, "an entry of 'agent-instances'")
    instance_id = _instance_id(reader, node, entries)
    if instance_id is None:
        return None
    what = f"instance {instance_id!r}"
    reader.check_keys(entries, (*OCS_KEYS, *ACCEPTED_KEYS, *KEYS), what)
    if "agent-class" not in entries:
        reader.error(node, f"{what} has no 'agent-class'")
        return None
    agent_class = reader.text(entries["agent-class"].value, f"'agent-class' of {what}")
    arguments: list[str] = []
    if "arguments" in entries and not is_null(entries["arguments"].value):
        arguments = reader.words(entries["arguments"].value, f"'arguments' of {what}")
    manage = _manage(reader, entries, what) if agent_class != HOST_MANAGER else None
    settings = read_settings(reader, entries, what, working_dir)
    return _Instance(node, instance_id, agent_class, manage, tuple(arguments), settings)


def _instance_id(reader: Reader, node: Node, entries: Mapping[str, Entry]) -> str | None:
    if "instance-id" not in entries:
        cls = f" of class {entries['agent-class'].value.value!r}" if "agent-class" in entries else ""
        reader.error(node, f"an entry{cls} of 'agent-instances' has no 'instance-id'")
        return None
    value = entries["instance-id"].value
    text = reader.text(value, "'instance-id'")
    if text == ALL:
        reader.error(value, f"instance-id {ALL!r} stands for all instances in requests; choose another")
        return None
    if not text or "/" in text or not text.isprintable() or text != text.strip():
        reader.error(
            value, f"instance-id {text!r} is empty, or has a slash, a control character or outer blanks"
        )
        return None
    return text


def _manage(reader: Reader, entries: Mapping[str, Entry], what: str) -> tuple[Management, Target] | None:
    if "manage" not in entries or is_null(entries["manage"].value):
        return MANAGE["host/up"]
    node = entries["manage"].value
    text = reader.text(node, f"'manage' of {what}")
    boolean = node.tag == "tag:yaml.org,2002:bool"
    word = text.lower() if boolean else text
    if word in MANAGE and (boolean or word not in ("true", "on", "false", "off")):
        return MANAGE[word]
    known = [w for w in MANAGE if w not in ("true", "on", "false", "off")]
    hint = suggest(text, known) or f"known: {', '.join(known)}"
    reader.error(node, f"'manage' of {what} is {text!r}, which means nothing ({hint})")
    return MANAGE["ignore"]


def _spec(read: _Instance, settings: Settings, launchers: Launchers, log_dir: str) -> InstanceSpec:
    assert read.manage is not None
    management, target = read.manage
    process, problem = None, ""
    if management is Management.DOCKER:
        problem = NO_COMPOSE
    else:
        command = launchers.find(read.instance_id, read.agent_class, read.settings.command, read.arguments)
        if command is None:
            problem = launchers.unknown(read.agent_class)
        else:
            process = ProcessSpec(
                argv=command.argv,
                source=command.source,
                env=tuple(sorted(settings.env.items())),
                working_dir=settings.working_dir or str(launchers.working_dir),
                user=settings.user or "",
                limits=tuple(sorted(settings.limits.items())),
            )
    log = LogPolicy(directory=log_dir)
    return InstanceSpec(
        instance_id=read.instance_id,
        agent_class=read.agent_class,
        management=management,
        initial_target=target,
        process=process,
        problem=problem,
        ready=settings.ready,
        log=LogPolicy(
            log_dir,
            log.size if settings.log_size is None else settings.log_size,
            log.keep if settings.log_keep is None else settings.log_keep,
        ),
        start_timeout=START_TIMEOUT if settings.start_timeout is None else settings.start_timeout,
        stop=settings.stop,
        restart=settings.restart or RestartPolicy(),
        depends_on=tuple(d.instance_id for d in settings.depends_on or ()),
    )


def _check_dependencies(
    reader: Reader,
    found: Mapping[str, _Instance],
    managed: Mapping[str, _Instance],
    classes: Mapping[str, Settings],
) -> None:
    wanted = {
        i: merge(r.settings, classes.get(r.agent_class, Settings())).depends_on or ()
        for i, r in managed.items()
    }
    for instance_id, dependencies in wanted.items():
        for dependency in dependencies:
            other = dependency.instance_id
            if other == instance_id:
                reader.error(dependency.node, f"instance {instance_id!r} cannot depend on itself")
            elif other not in found:
                hint = suggest(other, managed)
                text = f"instance {instance_id!r} depends on {other!r}, which is not on this host {hint}"
                reader.error(dependency.node, text.rstrip())
            elif other not in managed:
                text = f"instance {instance_id!r} depends on {other!r}, which is not managed"
                reader.error(dependency.node, text)
    if not reader.failed:
        _check_cycles(reader, {i: [d.instance_id for d in ds] for i, ds in wanted.items()}, managed)


def _check_cycles(reader: Reader, graph: Mapping[str, list[str]], managed: Mapping[str, _Instance]) -> None:
    done: set[str] = set()
    for start in graph:
        path: list[str] = []
        trail = [iter([start])]
        while trail:
            step = next(trail[-1], None)
            if step is None:
                trail.pop()
                if path:
                    done.add(path.pop())
            elif step in path:
                cycle = " -> ".join([*path[path.index(step) :], step])
                reader.error(managed[step].node, f"instances depend on each other in a circle: {cycle}")
                return
            elif step not in done:
                path.append(step)
                trail.append(iter(graph[step]))
