"""The entries of `agent-instances` of one host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from hostmanager.values import dataclass, field, replace

from hostmanager_server.config.dependencies import check_dependencies
from hostmanager_server.config.document import KeptScalar, MapNode, Node, Scalar
from hostmanager_server.config.identity import (
    bad_instance,
    read_agent_class,
    read_instance_id,
    stated_identity,
)
from hostmanager_server.config.instance_keys import KEYS, InstanceKeys, merge, read_settings
from hostmanager_server.config.instance_spec import digested_files, make_spec
from hostmanager_server.config.manage import DEFAULT, Manage, read_manage
from hostmanager_server.config.manager_options import ManagerOptions, read_options
from hostmanager_server.config.node_reader import Entry, Reader, shown
from hostmanager_server.config.probes import check_probes
from hostmanager_server.config.read_entry import NOWHERE, ParseContext, ReadInstance, without_places
from hostmanager_server.config.templates import KEY as COPIES
from hostmanager_server.config.templates import copies
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import (
    InstanceSpec,
    Management,
    RestartPolicy,
    RestartWhen,
)

# The class of the daemon's own entry, as in OCS.
HOST_MANAGER = "HostManager"
OCS_KEYS = ("instance-id", "agent-class", "arguments", "manage")
INSTANCE_KEYS = (*OCS_KEYS, COPIES, *KEYS)
_NO_KEYS = InstanceKeys()
# Keys for native processes only: the compose file sets them for its services.
PROCESS_KEYS = (
    "command", "env", "env-file", "env-inherit", "group", "limits", "log", "memory", "nice", "restart-above",
    "run-arguments",
    "stop-signal", "stop-timeout", "umask", "user", "working-dir",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeptInstance:
    """An entry of `agent-instances` without problems, for later readings that find the same text.

    The entry may have moved in the file, so its nodes are NOWHERE.
    """

    instance: ReadInstance
    spec: InstanceSpec | None  # None: not managed
    size: int  # of the entry's node, as in `document`
    height: int


@dataclass(frozen=True, slots=True)
class HostInstances:
    """The specs of the managed instances in the order of the file, and the daemon's options.

    `entries` has the instance and the spec of each node, by the position of the node in the list.
    """

    specs: tuple[InstanceSpec, ...]
    options: ManagerOptions
    entries: Mapping[int, tuple[ReadInstance, InstanceSpec | None]]
    bad: Mapping[str, InstanceSpec] = field(default_factory=dict)  # the instances of entries with errors
    read: Mapping[str, ReadInstance] = field(default_factory=dict)  # by id
    nameless: tuple[str, ...] = ()  # entries with errors that have no id, in words

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
    bad: dict[str, InstanceSpec] = {}
    nameless: list[str] = []
    for position, entry, node, mistake in _with_copies(reader, nodes):
        earlier = kept[node.text] if isinstance(node, KeptScalar) else None
        with reader.entry() as mistakes:
            instance = _read_instance(reader, node, context) if earlier is None else _kept(earlier, context)
        if mistake is not None:
            mistakes.insert(0, mistake)
        _note_bad(reader, node, instance, [*mistakes, *_of_class(instance, context)], bad, nameless)
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
    managed = [each for each in found.values() if each.manage is not None and each.instance_id not in bad]
    specs: dict[str, InstanceSpec] = {}
    for instance in managed:
        earlier = known.get(instance.instance_id)
        with reader.entry() as mistakes:
            if earlier is not None and earlier.spec is not None:
                spec = _known_spec(reader, instance, earlier.spec, context)
            else:
                spec = make_spec(reader, instance, context)
        specs[instance.instance_id] = spec
        _note_bad(reader, NOWHERE, instance, mistakes, bad, nameless)
    wanted = {i.instance_id: i.settings.depends_on or () for i in managed} | dict.fromkeys(bad, ())
    for instance_id, mistake in check_dependencies(reader, wanted, found).items():
        _note_bad(reader, NOWHERE, found[instance_id], [mistake], bad, nameless)
    if context.local:
        _warn_of_inoperable(reader, managed, specs.values(), bad)
    by_position = {position: (found[name], specs.get(name)) for name, position in positions.items()}
    return HostInstances(
        tuple(specs.values()), _options(reader, found.values()), by_position, bad, found, tuple(nameless)
    )


def _with_copies(reader: Reader, nodes: Iterable[Node]) -> Iterator[tuple[int, Node, Node, Problem | None]]:
    """Yield the position, the entry and each copy, or the entry itself with the error of its copies."""
    for position, entry in enumerate(nodes):
        with reader.entry() as mistakes:
            found = list(copies(reader, entry))
        if mistakes:
            yield position, entry, entry, mistakes[0]
        else:
            yield from ((position, entry, copy, None) for copy in found)


def _of_class(instance: ReadInstance | None, context: ParseContext) -> list[Problem]:
    mistake = context.bad_classes.get(instance.agent_class) if instance is not None else None
    return [] if mistake is None or instance is None or instance.manage is None else [mistake]


def _note_bad(
    reader: Reader,
    node: Node,
    instance: ReadInstance | None,
    mistakes: Sequence[Problem],
    bad: dict[str, InstanceSpec],
    nameless: list[str],
) -> None:
    """Note the instance of an entry with errors; errors in the daemon's own entry are those of the file."""
    if not mistakes:
        return
    if instance is not None:
        instance_id, agent_class, manage = instance.instance_id, instance.agent_class, instance.manage
    else:
        (instance_id, agent_class), manage = stated_identity(node), None
    if agent_class == HOST_MANAGER:
        reader.file_failed = True
    elif instance_id:
        bad.setdefault(instance_id, bad_instance(instance_id, agent_class, manage, mistakes[0]))
    else:
        nameless.append(f"the entry in {reader.where(node, node)}")


def _known_spec(
    reader: Reader, instance: ReadInstance, spec: InstanceSpec, context: ParseContext
) -> InstanceSpec:
    """Return the spec of an earlier reading, with the present digests of its env-files."""
    if spec.process is None or not instance.settings.env_files:
        return spec
    env_files = digested_files(reader, instance, context)
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
    instance_id = read_instance_id(reader, node, entries)
    label = f"instance {shown(instance_id)}" if instance_id is not None else label
    agent_class = read_agent_class(reader, node, entries, label)
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
    service = manage is not None and manage[0] is Management.DOCKER
    if service:
        _check_service(reader, entries, label)
    if instance_id is None or agent_class is None:
        return None
    settings = merge(own, context.classes.get(agent_class, InstanceKeys()))
    if manage is not None:
        probes = {"ready": settings.ready, "alive": settings.alive}
        _check_schedule(reader, entries, entries["agent-class"].value, settings, label)
        check_probes(reader, entries, entries["agent-class"].value, probes, label, service=service)
    return ReadInstance(
        entries["instance-id"].value,
        entries["agent-class"].value,
        instance_id,
        agent_class,
        manage,
        arguments,
        own,
        settings,
        is_copy=COPIES in entries,
    )


def _check_service(reader: Reader, entries: Mapping[str, Entry], label: str) -> None:
    for key in PROCESS_KEYS:
        if key in entries:
            text = f"{key!r} of {label} is ignored: the compose file sets this for a compose service"
            reader.warn(entries[key].key, text)


def _check_schedule(
    reader: Reader, entries: Mapping[str, Entry], class_node: Node, settings: InstanceKeys, label: str
) -> None:
    policy = settings.restart or RestartPolicy()
    if settings.schedule is None or (policy.when is not RestartWhen.ALWAYS and settings.ready is None):
        return
    node = entries["schedule"].value if "schedule" in entries else class_node
    remedy = "set restart: on-failure or restart: never, and no ready"
    reader.error(node, f"'schedule' of {label} needs an instance that ends by itself: {remedy}")


def _warn_of_inoperable(
    reader: Reader,
    instances: Iterable[ReadInstance],
    specs: Iterable[InstanceSpec],
    bad: Collection[str],
) -> None:
    specs = list(specs)
    idle = {spec.instance_id for spec in specs if spec.problem}.union(bad)
    for instance, spec in zip(instances, specs, strict=True):
        for dependency in instance.settings.depends_on or ():
            if dependency.instance_id in idle and spec.instance_id not in idle:
                text = f"instance {shown(spec.instance_id)} waits for {shown(dependency.instance_id)}"
                reader.warn(dependency.node, f"{text}, which cannot start")
        if spec.problem:
            text = f"instance {shown(spec.instance_id)} cannot start: {spec.problem}"
            reader.warn(instance.class_node, text)
