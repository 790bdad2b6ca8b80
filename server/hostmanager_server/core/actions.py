"""Decisions of the core, and the actions that the supervisor carries out."""

from __future__ import annotations

from collections.abc import Sequence

from hostmanager.values import dataclass

from hostmanager_server.core.event_log import LogEntry
from hostmanager_server.core.events import RunKey
from hostmanager_server.core.model import Instance
from hostmanager_server.core.spec import InstanceSpec


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a run through the driver."""

    run: RunKey
    spec: InstanceSpec


@dataclass(frozen=True, slots=True)
class Stop:
    """Send a signal to the main process of a run, or to its whole process tree."""

    run: RunKey
    signum: int
    whole_tree: bool


NAMES_LISTED = 20  # in one message: the event log keeps many of them


def listed(names: Sequence[str]) -> str:
    """Join names for a message: the first few, and the number of the others."""
    more = len(names) - NAMES_LISTED
    return ", ".join(names[:NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Remove:
    """Stop tracking a retired instance."""

    instance_id: str


Action = Launch | Stop | LogEntry | Remove


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of `decide`.

    The reconciler carries out the actions in order.
    """

    instance: Instance
    actions: tuple[Action, ...] = ()
