"""An entry of `agent-instances` as read, and what it shares with the others of its host."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager.values import dataclass, field, replace

from hostmanager_server.config.document import Node, Scalar
from hostmanager_server.config.hooks import Hooks
from hostmanager_server.config.instance_keys import InstanceKeys
from hostmanager_server.config.labels import Labels
from hostmanager_server.config.launchers import Launchers
from hostmanager_server.config.manage import Manage
from hostmanager_server.core.manager_status import Problem

# The place of an entry of an earlier reading, which may have moved in the file.
NOWHERE = Scalar(-1, -1, "")


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
    bad_classes: Mapping[str, Problem] = field(default_factory=dict)  # classes with an error
    hooks: Hooks = Hooks()
    labels: Labels = ()  # of all instances of the host

    def without_places(self) -> ParseContext:
        """Return a context that is equal to that of a later reading if the texts of the classes are."""
        return replace(self, classes={name: without_places(keys) for name, keys in self.classes.items()})


def without_places(keys: InstanceKeys) -> InstanceKeys:
    """Return equal keys for equal texts, wherever they stand in the file."""
    if not keys.depends_on and not keys.env_files:
        return keys
    return replace(
        keys,
        depends_on=keys.depends_on and tuple(replace(each, node=NOWHERE) for each in keys.depends_on),
        env_files=tuple(replace(each, node=NOWHERE) for each in keys.env_files),
    )
