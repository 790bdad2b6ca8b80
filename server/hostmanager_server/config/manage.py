"""The `manage` of an instance: who runs it, and what is wanted of it at the start."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_server.config.document import Node, NodeKind, Scalar
from hostmanager_server.config.reader import Reader, hint_at, is_null, shown
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
# YAML 1.1 takes these for booleans when they are not quoted, in lower, upper or title case.
_BOOLEANS = {"yes": "yes", "true": "yes", "on": "yes", "no": "no", "false": "no", "off": "no"}


def read_manage(reader: Reader, node: Node, what: str) -> Manage | None:
    """None when the instance is not to be managed, or when that cannot be understood."""
    if is_null(node):
        return DEFAULT
    text = reader.text(node, what)
    if text is None:
        return None
    if isinstance(node, Scalar) and node.kind is NodeKind.BOOLEAN:
        text = _BOOLEANS.get(text.lower(), text)
    if text not in MANAGE:
        reader.error(node, f"{what} is {shown(text)}, which means nothing ({hint_at(text, MANAGE)})")
    return MANAGE.get(text)
