"""JSON documents of the command line, in addition to the messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_client.cli.escape import one_line
from hostmanager_client.state import HostState, StatusUpdate
from hostmanager_client.words import to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.reconnect import ConnectionChange


def state_json(state: HostState, usages: Mapping[str, pb.InstanceUsage] | None = None) -> dict[str, Any]:
    """Return the document of `status --json`; with `usages`, each instance has the key `usage`."""
    return {
        "revision": state.revision,
        "time": _time(state),
        "manager": to_json(state.manager),
        "instances": [
            to_json(instance) if usages is None else with_usage(instance, usages)
            for instance in state.instances.values()
        ],
        "resume_token": state.resume_token,
    }


def with_usage(instance: pb.ManagedInstance, usages: Mapping[str, pb.InstanceUsage]) -> dict[str, Any]:
    """Return the document of an instance with what it uses; null without a run."""
    usage = usages.get(instance.instance_id)
    return to_json(instance) | {"usage": to_json(usage) if usage is not None else None}


def update_json(update: StatusUpdate) -> dict[str, Any]:
    """Return a line of `watch --json`."""
    state = update.state
    return {
        "type": "status",
        "revision": state.revision,
        "time": _time(state),
        "snapshot": update.snapshot or None,
        "manager": to_json(state.manager) if update.manager_changed else None,
        "instances": [to_json(state.instances[i]) for i in update.changed],
        "removed_instance_ids": list(update.removed),
        "resume_token": state.resume_token,
    }


def connection_json(change: ConnectionChange) -> dict[str, Any]:
    """Return the JSON line for a lost or restored connection."""
    from hostmanager_client.reconnect import Disconnected

    if isinstance(change, Disconnected):
        return {
            "type": "disconnected",
            "message": str(change.error),
            "attempt": change.attempt,
            "retry_in": round(change.retry_in, 3),
        }
    return {"type": "reconnected", "outage": round(change.outage, 3), "complete": change.complete}


def connection_line(change: ConnectionChange) -> str:
    """Return the text line for a lost or restored connection."""
    from hostmanager_client.reconnect import Disconnected

    if isinstance(change, Disconnected):
        return f"connection lost ({one_line(str(change.error))}); next attempt in {change.retry_in:.1f} s"
    rest = "" if change.complete else "; output may be missing here"
    return f"connected again after {change.outage:.1f} s{rest}"


def _time(state: HostState) -> str:
    return state.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
