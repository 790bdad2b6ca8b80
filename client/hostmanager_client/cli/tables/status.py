"""Lines of text for the status of a host: summary, manager, problems, and the table of instances."""

from __future__ import annotations

from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.tables.instances import columns_for
from hostmanager_client.cli.tables.layout import table, terminal_width
from hostmanager_client.cli.tables.width import wrap_styled
from hostmanager_client.cli.text import Cell
from hostmanager_client.cli.view import manager_line, problem_lines
from hostmanager_client.standing import (
    BLOCKED,
    FAILING,
    PAUSED,
    UNKNOWN,
    WAITING,
    count_groups,
    trouble_first,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.calls import Listing
    from hostmanager_client.state import HostState

_COLORS = {
    "up": "green",
    "starting": "yellow",
    "stopping": "yellow",
    BLOCKED: "red",
    FAILING: "red",
    UNKNOWN: "red",
    WAITING: "yellow",
    PAUSED: "yellow",
}


class ShownStatus:
    """The part of a HostState that a table shows; the module of HostState takes as long to load as a call."""

    def __init__(self, status: pb.GetStatusResponse, listing: Listing) -> None:
        self.manager = status.manager
        by_id = {instance.instance_id: instance for instance in listing.instances}
        self.instances = {instance_id: by_id[instance_id] for instance_id in sorted(by_id)}


def status_lines(
    state: HostState | ShownStatus,
    now: float,
    address: str,
    *,
    wide: bool = False,
    usages: Mapping[str, pb.InstanceUsage] | None = None,
) -> list[str]:
    """Return the lines of `status`, fit to the terminal; `now` is the clock of the daemon, in s since 1970.

    Without a terminal, or if `wide`, the table has all columns, however long its lines are. With `usages`, by
    instance id, columns show what the instances use.
    """
    limit = None if wide else terminal_width()
    pairs = trouble_first(state.instances.values())
    lines = [
        summary_line(group for _, group in pairs),
        *manager_lines(state.manager, now, address, limit),
    ]
    if not state.instances:
        return lines
    instances = [instance for instance, _ in pairs]
    columns = [*columns_for(instances, wide=wide)]
    if usages is not None:
        from hostmanager_client.cli.tables.usage import usage_columns

        columns[-1:-1] = usage_columns(usages)
    rows = [[column.cell(instance, now) for column in columns] for instance in instances]
    return [*lines, "", *table([column.layout for column in columns], rows, limit)]


def manager_lines(manager: pb.ManagerStatus, now: float, address: str, limit: int | None) -> list[str]:
    """Return the lines of the manager and of its problems, broken between words at a width."""
    lines = [manager_line(manager, now, address), *problem_lines(manager)]
    if limit is None:
        return lines
    return [part for line in lines for part in wrap_styled(displayable(line), limit).split("\n")]


def summary_line(groups: Iterable[str]) -> str:
    """Return a line such as `118 up · 12 down · 1 failing`."""
    return displayable(" · ").join(cell.styled() for cell in summary_cells(count_groups(groups)))


def summary_cells(counts: Mapping[str, int]) -> list[Cell]:
    """Return the parts of a summary, for the numbers of instances by group."""
    if not counts:
        return [Cell("no instances")]
    return [Cell(f"{count} {group}", _COLORS.get(group, "")) for group, count in counts.items()]
