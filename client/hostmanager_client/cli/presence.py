"""Checks that the named instances exist, for commands that would wait for them in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hostmanager_client.errors import NotFound

if TYPE_CHECKING:
    from hostmanager_client.sync import HostManagerClient


def require_instances(client: HostManagerClient, instance_ids: Sequence[str]) -> None:
    """Raise NotFound if the daemon has no instance with one of these ids."""
    if instance_ids:
        client.list_instances(instance_ids)


def require_events(client: HostManagerClient, instance_ids: Sequence[str]) -> None:
    """Raise NotFound if one of these ids has neither an instance nor an event of a former instance."""
    try:
        require_instances(client, instance_ids)
    except NotFound:
        known = {child.instance_id for child in client.get_status().child_states}
        if not all(client.list_events([each], newest=1).events for each in instance_ids if each not in known):
            raise
