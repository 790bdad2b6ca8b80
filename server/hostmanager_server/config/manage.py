"""The key `manage` of an instance: its management, and its target at the start."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_server.config.document import Node, NodeKind, Scalar
from hostmanager_server.config.node_reader import Reader, hint_at, is_null, shown
from hostmanager_server.core.spec import Management, Target

Manage = tuple[Management, Target]

DEFAULT: Manage = (Management.HOST, Target.UP)
# As in OCS's site_config.py, InstanceConfig._MANAGE_MAP. None: not managed.
MANAGE: Mapping[str, Manage | None] = {
    "yes": DEFAULT,
    "host": DEFAULT,
    "up": DEFAULT,
    "host/up": DEFAULT,
    "down": (Management.HOST, Target.DOWN),
    "host/down": (Management.HOST, Target.DOWN),
    "docker": (Management.DOCKER, Target.UP),
    "docker/up": (Management.DOCKER, Target.UP),
    "docker/down": (Management.DOCKER, Target.DOWN),
    "no": None,
    "ignore": None,
}
# Unquoted, these words are booleans in YAML 1.1, in lower, upper or title case.
_BOOLEANS = {"yes": "yes", "true": "yes", "on": "yes", "no": "no", "false": "no", "off": "no"}


def read_manage(reader: Reader, node: Node, label: str) -> Manage | None:
    """Return management and target, or None.

    None stands for an unmanaged instance, or for an error.
    """
    if is_null(node):
        return DEFAULT
    text = reader.text(node, label)
    if text is None:
        return None
    if isinstance(node, Scalar) and node.kind is NodeKind.BOOLEAN:
        text = _BOOLEANS.get(text.lower(), text)
    if text not in MANAGE:
        reader.error(node, f"{label} is {shown(text)}, which is no known value ({hint_at(text, MANAGE)})")
    return MANAGE.get(text)
