"""The entries of `agent-instances` of one host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from hostmanager.values import dataclass, replace

from hostmanager_server.config.dependencies import check_dependencies
from hostmanager_server.config.document import LINES_PER_FILE, KeptScalar, MapNode, Node, Scalar
from hostmanager_server.config.environment_keys import read_env_file_digest
from hostmanager_server.config.instance_keys import KEYS, InstanceKeys, merge, read_settings
from hostmanager_server.config.launchers import Launchers
from hostmanager_server.config.manage import DEFAULT, Manage, read_manage
from hostmanager_server.config.manager_options import ManagerOptions, read_options
from hostmanager_server.config.node_reader import Entry, Reader, shown
from hostmanager_server.config.templates import KEY as COPIES
from hostmanager_server.config.templates import copies
from hostmanager_server.core.plan import ALL
from hostmanager_server.core.spec import (
    START_TIMEOUT,
    UP_AFTER,
    CommandProbe,
    EnvFile,
    InstanceSpec,
    LogPolicy,
    Management,
    ProcessSpec,
    RestartPolicy,
)

# The class of the daemon's own entry, as in OCS.
HOST_MANAGER = "HostManager"
OCS_KEYS = ("instance-id", "agent-class", "arguments", "manage")
INSTANCE_KEYS = (*OCS_KEYS, COPIES, *KEYS)
MAX_ID = 80  # characters; ids become file names, in which one character may take up to twelve
_NO_KEYS = InstanceKeys()
# Keys for native processes only: the compose file sets them for its services.
PROCESS_KEYS = (
    "command", "env", "env-file", "env-inherit", "group", "limits", "log", "nice", "stop-signal",
    "stop-timeout", "umask", "user", "working-dir",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReadInstance:
    """An entry of `agent-instances` as read, before it is compared with others."""

    id_node: Node
    class_node: Node
    instance_id: str
    agent_class: str
    manage: Manage | None  # None: not managed
    arguments: tuple[Scalar, ...]
    own: InstanceKeys
    settings: InstanceKeys  # merged over the keys of the class
    is_copy: bool = False  # of an entry with `instances`


@dataclass(frozen=True, slots=True)
class ParseContext:
    """The host of the instances, and the values that it shares with other hosts."""

    host: str
    classes: Mapping[str, InstanceKeys]
    launchers: Launchers
    log_dir: str  # empty: the daemon's default
    local: bool  # the host is this machine: an agent that cannot start here gets a warning
    env_inherit: tuple[str, ...] | None = None  # for agents without `env-inherit`

    def without_places(self) -> ParseContext:
        """Return a context that is equal to that of a later reading if the texts of the classes are."""
        return replace(self, classes={name: without_places(keys) for name, keys in self.classes.items()})


@dataclass(frozen=True, slots=True)
class KeptInstance:
    """An entry of `agent-instances` without problems, for later readings that find the same text.

    The entry may have moved in the file, so its nodes are NOWHERE.
    """

    instance: ReadInstance
    spec: InstanceSpec | None  # None: not managed
    size: int  # of the entry's node, as in `document`
    height: int


NOWHERE = Scalar(-1, -1, "")


@dataclass(frozen=True, slots=True)
class HostInstances:
    """The specs of the managed instances in the order of the file, and the daemon's options.

    `entries` has the instance and the spec of each node, by the position of the node in the list.
    """

    specs: tuple[InstanceSpec, ...]
    options: ManagerOptions
    entries: Mapping[int, tuple[ReadInstance, InstanceSpec | None]]

    def to_keep(self, position: int, node: Node) -> KeptInstance | None:
        """Return an entry for later readings; None for one that they have to read themselves."""
        if position not in self.entries:
            return None
        instance, spec = self.entries[position]
        if instance.agent_class == HOST_MANAGER:
            return None
        return KeptInstance(_to_keep(instance), spec, node.size, node.height)


def read_instances(
    reader: Reader,
    nodes: Iterable[Node],
    context: ParseContext,
    kept: Mapping[str, KeptInstance] = MappingProxyType({}),
) -> HostInstances:
    """Read the entries of `agent-instances`; `kept` has entries of an earlier reading, by marker."""
    found: dict[str, ReadInstance] = {}
    known: dict[str, KeptInstance] = {}
    positions: dict[str, int] = {}
    entries = (
        (position, entry, copy) for position, entry in enumerate(nodes) for copy in copies(reader, entry)
    )
    for position, entry, node in entries:
        earlier = kept[node.text] if isinstance(node, KeptScalar) else None
        instance = _read_instance(reader, node, context) if earlier is None else _kept(earlier, context)
        if instance is None:
            continue
        first = found.get(instance.instance_id)
        if first is not None:  # two entries of the same text may be one kept instance
            where = f"first in {reader.where(first.id_node, instance.id_node)}"
            reader.error(
                instance.id_node, f"instance-id {shown(instance.instance_id)} is there twice ({where})"
            )
            continue
        found[instance.instance_id] = instance
        if node is entry:  # a copy has no text of its own
            positions[instance.instance_id] = position
        if earlier is not None:
            known[instance.instance_id] = earlier
    managed = [instance for instance in found.values() if instance.manage is not None]
    specs = {
        instance.instance_id: _known_spec(reader, instance, earlier.spec, context)
        if (earlier := known.get(instance.instance_id)) is not None and earlier.spec is not None
        else _spec(reader, instance, context)
        for instance in managed
    }
    check_dependencies(reader, {i.instance_id: i.settings.depends_on or () for i in managed}, found)
    if context.local:
        _warn_of_inoperable(reader, managed, specs.values())
    by_position = {position: (found[name], specs.get(name)) for name, position in positions.items()}
    return HostInstances(tuple(specs.values()), _options(reader, found.values()), by_position)


def _known_spec(
    reader: Reader, instance: ReadInstance, spec: InstanceSpec, context: ParseContext
) -> InstanceSpec:
    """Return the spec of an earlier reading, with the present digests of its env-files."""
    if spec.process is None or not instance.settings.env_files:
        return spec
    env_files = _env_files(reader, instance, context)
    if env_files == spec.process.env_files:
        return spec
    return replace(spec, process=replace(spec.process, env_files=env_files))


def _kept(entry: KeptInstance, context: ParseContext) -> ReadInstance:
    """Return the instance of an earlier reading, with the env-files of its class as they are named now."""
    instance = entry.instance
    of_class = context.classes.get(instance.agent_class, _NO_KEYS).env_files
    if not of_class:
        return instance
    settings = replace(instance.settings, env_files=(*of_class, *instance.settings.env_files))
    return replace(instance, settings=settings)


def _to_keep(instance: ReadInstance) -> ReadInstance:
    """Return an instance with only the keys that are compared with other instances, or with files."""
    files, settings = instance.own.env_files, instance.settings
    kept = _NO_KEYS
    if settings.depends_on or settings.env_files:
        kept = InstanceKeys(depends_on=settings.depends_on, env_files=files, user=settings.user)
    return replace(
        instance, id_node=NOWHERE, class_node=NOWHERE, arguments=(), own=_NO_KEYS,
        settings=without_places(kept),
    )  # fmt: skip


def without_places(keys: InstanceKeys) -> InstanceKeys:
    """Return equal keys for equal texts, wherever they stand in the file."""
    if not keys.depends_on and not keys.env_files:
        return keys
    return replace(
        keys,
        depends_on=keys.depends_on and tuple(replace(each, node=NOWHERE) for each in keys.depends_on),
        env_files=tuple(replace(each, node=NOWHERE) for each in keys.env_files),
    )


def _options(reader: Reader, instances: Iterable[ReadInstance]) -> ManagerOptions:
    own = [instance for instance in instances if instance.agent_class == HOST_MANAGER]
    for other in own[1:]:
        first = reader.where(own[0].class_node, other.class_node)
        reader.warn(other.class_node, f"a second {HOST_MANAGER} entry is ignored (first in {first})")
    return read_options(reader, own[0].arguments) if own else ManagerOptions()


def _read_instance(reader: Reader, node: Node, context: ParseContext) -> ReadInstance | None:
    label = "an entry of 'agent-instances'"
    if not isinstance(node, MapNode):
        reader.error(node, f"{label} must be a mapping (key: value)")
        return None
    entries = reader.mapping(node, label)
    instance_id = _instance_id(reader, node, entries)
    label = f"instance {shown(instance_id)}" if instance_id is not None else label
    agent_class = _agent_class(reader, node, entries, label)
    reader.check_keys(entries, INSTANCE_KEYS, label)
    if COPIES in entries and agent_class == HOST_MANAGER:
        reader.error(entries[COPIES].key, f"{label} cannot have copies: a host has a single {HOST_MANAGER}")
    manage: Manage | None = DEFAULT if agent_class != HOST_MANAGER else None
    if "manage" in entries and manage is not None:
        manage = read_manage(reader, entries["manage"].value, f"'manage' of {label}")
    arguments: tuple[Scalar, ...] = ()
    if "arguments" in entries:
        arguments = reader.words(entries["arguments"].value, f"'arguments' of {label}")
    own = read_settings(reader, entries, label, context.launchers.working_dir)
    if manage is not None and manage[0] is Management.DOCKER:
        _check_service(reader, entries, own, label)
    if instance_id is None or agent_class is None:
        return None
    return ReadInstance(
        entries["instance-id"].value,
        entries["agent-class"].value,
        instance_id,
        agent_class,
        manage,
        arguments,
        own,
        merge(own, context.classes.get(agent_class, InstanceKeys())),
        is_copy=COPIES in entries,
    )


def _check_service(reader: Reader, entries: Mapping[str, Entry], own: InstanceKeys, label: str) -> None:
    for key in PROCESS_KEYS:
        if key in entries:
            text = f"{key!r} of {label} is ignored: the compose file sets this for a compose service"
            reader.warn(entries[key].key, text)
    if own.ready is not None and isinstance(own.ready.check, CommandProbe):
        text = (
            f"'ready' of {label} cannot be a command, as the instance is a compose service: use tcp or http"
        )
        reader.error(entries["ready"].value, text)


def _instance_id(reader: Reader, node: Node, entries: Mapping[str, Entry]) -> str | None:
    if "instance-id" not in entries:
        entry = entries.get("agent-class")
        of_class = f" of class {shown(entry.value.text)}" if entry and isinstance(entry.value, Scalar) else ""
        reader.error(node, f"an entry{of_class} of 'agent-instances' has no 'instance-id'")
        return None
    value = entries["instance-id"].value
    text = reader.text(value, "'instance-id'")
    if text is None:
        return None
    if text == ALL:
        reader.error(value, f"instance-id {ALL!r} stands for all instances in requests; choose another")
        return None
    if not text or len(text) > MAX_ID or "/" in text or not text.isprintable() or text != text.strip():
        rule = f"must have 1 to {MAX_ID} characters, and no slash, control character or blank at its ends"
        reader.error(value, f"instance-id {shown(text)} {rule}")
        return None
    return text


def _agent_class(reader: Reader, node: Node, entries: Mapping[str, Entry], label: str) -> str | None:
    if "agent-class" not in entries:
        reader.error(node, f"{label} has no 'agent-class'")
        return None
    value = entries["agent-class"].value
    text = reader.text(value, f"'agent-class' of {label}")
    if text is not None and (not text or not text.isprintable()):
        reader.error(value, f"'agent-class' of {label} is empty, or has a control character")
        return None
    return text


def _spec(reader: Reader, instance: ReadInstance, context: ParseContext) -> InstanceSpec:
    assert instance.manage is not None
    management, target = instance.manage
    settings = instance.settings
    process = _process(reader, instance, context) if management is Management.HOST else None
    log = LogPolicy()
    return InstanceSpec(
        instance_id=instance.instance_id,
        agent_class=instance.agent_class,
        management=management,
        initial_target=target,
        process=process,
        # The compose files, read later, tell which service the instance has, if any.
        problem=""
        if process or management is Management.DOCKER
        else context.launchers.unknown(instance.agent_class),
        ready=settings.ready,
        log=LogPolicy(
            context.log_dir,
            log.size if settings.log.size is None else settings.log.size,
            log.keep if settings.log.keep is None else settings.log.keep,
            "" if process is None else process.user,
        ),
        start_timeout=START_TIMEOUT if settings.start_timeout is None else settings.start_timeout,
        up_after=UP_AFTER if settings.up_after is None else settings.up_after,
        stop=settings.stop,
        restart=settings.restart or RestartPolicy(),
        depends_on=tuple(dependency.instance_id for dependency in settings.depends_on or ()),
        conditions=tuple(
            (dependency.instance_id, dependency.condition)
            for dependency in settings.depends_on or ()
            if dependency.condition is not None
        ),
        restart_dependents=bool(settings.restart_dependents),
        success_codes=settings.success_codes or (),
    )


def _process(reader: Reader, instance: ReadInstance, context: ParseContext) -> ProcessSpec | None:
    arguments = [word.text for word in instance.arguments]
    launchers = context.launchers
    command = launchers.find(
        context.host, instance.instance_id, instance.agent_class, instance.own.command, arguments
    )
    if command is None:
        return None
    if command.source == "ocs" and (why := _why_unknown_to_ocs(reader, instance)):
        text = f"instance {shown(instance.instance_id)} cannot start: OCS's launcher finds no {why}"
        reader.warn(instance.class_node, f"{text}; give the instance a 'command'")
    settings = instance.settings
    return ProcessSpec(
        argv=command.argv,
        source=command.source,
        env=tuple(sorted(settings.env.items())),
        working_dir=settings.working_dir or str(launchers.working_dir),
        user=settings.user or "",
        limits=tuple(sorted(settings.limits.items())),
        env_files=_env_files(reader, instance, context),
        env_inherit=context.env_inherit if settings.env_inherit is None else settings.env_inherit,
        group=settings.group or "",
        umask=settings.umask,
        nice=settings.nice,
    )


def _why_unknown_to_ocs(reader: Reader, instance: ReadInstance) -> str:
    """Return what keeps OCS, which reads the site config by its own rules, from finding an instance."""
    if instance.is_copy:
        return "copies ('instances')"
    included = instance.class_node.line >= LINES_PER_FILE
    return f"entries of included files, only those of {reader.file}" if included else ""


def _env_files(reader: Reader, instance: ReadInstance, context: ParseContext) -> tuple[EnvFile, ...]:
    """Return the files, with digests of their content if the host is this machine."""
    files = instance.settings.env_files
    if not context.local:
        return tuple(EnvFile(file.path, optional=file.optional) for file in files)
    user = reader.machine.user_number(instance.settings.user or "") if files else None
    label = f"instance {shown(instance.instance_id)}"
    return tuple(read_env_file_digest(reader, file, user, label) for file in files)


def _warn_of_inoperable(
    reader: Reader, instances: Iterable[ReadInstance], specs: Iterable[InstanceSpec]
) -> None:
    specs = list(specs)
    idle = {spec.instance_id for spec in specs if spec.problem}
    for instance, spec in zip(instances, specs, strict=True):
        for dependency in instance.settings.depends_on or ():
            if dependency.instance_id in idle and spec.instance_id not in idle:
                text = f"instance {shown(spec.instance_id)} waits for {shown(dependency.instance_id)}"
                reader.warn(dependency.node, f"{text}, which cannot start")
        if spec.problem:
            text = f"instance {shown(spec.instance_id)} cannot start: {spec.problem}"
            reader.warn(instance.class_node, text)
