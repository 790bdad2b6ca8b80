"""The columns of the table of instances."""

from __future__ import annotations

from hostmanager.values import dataclass

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.tables.layout import Column
from hostmanager_client.cli.text import Cell, duration
from hostmanager_client.cli.view import describe, pid_of, stability
from hostmanager_client.words import next_action_word, target_word, to_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hostmanager.v1 import host_manager_pb2 as pb

    MakeCell = Callable[["pb.ManagedInstance", float], Cell]

_HEALTH_COLORS = {"healthy": "green", "starting": "yellow", "unhealthy": "red"}
_STATE_COLORS = {
    "up": "green",
    "start_at": "red",
    "start": "yellow",
    "wait_start": "yellow",
    "wait_dead": "yellow",
    "?": "red",
}


@dataclass(frozen=True, slots=True)
class InstanceColumn:
    """A column of the table: its layout, and its cell for an instance at a time (s since 1970).

    `only_if`: the column appears if true for any instance. `only_wide`: with --wide only. `usual`: the width
    on a screen, for a column whose text changes with time.
    """

    layout: Column
    cell: MakeCell
    only_if: Callable[[pb.ManagedInstance], bool] | None = None
    only_wide: bool = False
    usual: int = 0


def _instance(instance: pb.ManagedInstance, now: float) -> Cell:
    return Cell(one_line(instance.instance_id))


def _agent_class(instance: pb.ManagedInstance, now: float) -> Cell:
    return Cell(one_line(instance.agent_class))


def _target(instance: pb.ManagedInstance, now: float) -> Cell:
    return Cell(target_word(instance.target_state))


def _state(instance: pb.ManagedInstance, now: float) -> Cell:
    state = next_action_word(instance.next_action)
    return Cell(state, _STATE_COLORS.get(state, ""))


def _health(instance: pb.ManagedInstance, now: float) -> Cell:
    health = instance.compose_service.health
    return Cell(one_line(health) or "-", _HEALTH_COLORS.get(health, ""))


def _since(instance: pb.ManagedInstance, now: float) -> Cell:
    """Return the time since the start, or since the last exit."""
    if instance.HasField("start_time"):
        return Cell(duration(now - to_seconds(instance.start_time)))
    if instance.HasField("last_exit"):
        return Cell(duration(now - to_seconds(instance.last_exit.time)))
    return Cell("-")


def _pid(instance: pb.ManagedInstance, now: float) -> Cell:
    return Cell(str(pid_of(instance) or "-"))


def _restarts(instance: pb.ManagedInstance, now: float) -> Cell:
    return Cell(str(instance.restart_count))


def _stability(instance: pb.ManagedInstance, now: float) -> Cell:
    value = stability(instance, now)
    return Cell(f"{value:.2f}", "" if value > 0.9 else "yellow" if value > 0.5 else "red")


def _message(instance: pb.ManagedInstance, now: float) -> Cell:
    return Cell(describe(instance, now), "yellow" if instance.restart_required else "")


def _has_health(instance: pb.ManagedInstance) -> bool:
    return bool(instance.compose_service.health)


# A new column needs one line here. The columns with the lowest number in `drop` leave a narrow table first.
COLUMNS = (
    InstanceColumn(Column("INSTANCE", name=True), _instance),
    InstanceColumn(Column("CLASS", drop=4), _agent_class),
    InstanceColumn(Column("TARGET", drop=5), _target),
    InstanceColumn(Column("STATE"), _state, usual=len("wait_start")),
    InstanceColumn(Column("HEALTH", drop=6), _health, only_if=_has_health, usual=len("unhealthy")),
    InstanceColumn(Column("SINCE", drop=7, right=True), _since, usual=len("23 h 59 min")),
    InstanceColumn(Column("PID", drop=2, right=True), _pid, usual=len("4194303")),
    InstanceColumn(Column("RESTARTS", drop=3, right=True), _restarts),
    InstanceColumn(Column("STABILITY", drop=1, right=True), _stability),
    InstanceColumn(Column("MESSAGE", text=True), _message),
)


def columns_for(instances: Iterable[pb.ManagedInstance], *, wide: bool = False) -> list[InstanceColumn]:
    """Return the columns of a table of these instances."""
    found = list(instances)
    return [
        column
        for column in COLUMNS
        if (wide or not column.only_wide) and (column.only_if is None or any(map(column.only_if, found)))
    ]
