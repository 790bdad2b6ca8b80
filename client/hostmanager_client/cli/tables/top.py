"""The table of `top`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.tables.layout import Column, table
from hostmanager_client.cli.text import Cell
from hostmanager_client.cli.usage_text import USAGE_HEADER, percent, size, usage_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

SORTS = ("cpu", "memory", "tasks", "descriptors", "id")
_TOP_COLUMNS = (
    Column("INSTANCE", name=True),
    *(Column(title, right=True) for title in USAGE_HEADER),
    Column("PROCESSES", drop=1, right=True),
    Column("CPU TIME", drop=2, right=True),
)


def sort_usages(usages: Iterable[pb.InstanceUsage], by: str) -> list[pb.InstanceUsage]:
    """Return the usages in the order of a column: the largest first, ids in alphabetical order."""
    ordered = sorted(usages, key=lambda usage: usage.instance_id)
    if by != "id":
        ordered.sort(key=lambda usage: getattr(usage, by), reverse=True)
    return ordered


def top_lines(
    usages: Sequence[pb.InstanceUsage], by: str, most: int | None = None, limit: int | None = None
) -> list[str]:
    """Return the sum and the table of the usages, at most `most` lines of instances.

    `limit`: the width of the terminal, in columns; None without one.
    """
    cpu = sum(usage.cpu for usage in usages)
    memory = sum(usage.memory for usage in usages)
    tasks = sum(usage.tasks for usage in usages)
    count = f"{len(usages)} running instance{'' if len(usages) == 1 else 's'}"
    head = f"{count}, CPU {percent(cpu)}, memory {size(memory)}, {tasks} tasks"
    if not usages:
        return [head]
    shown = sort_usages(usages, by)[:most]
    rows = [
        [Cell(one_line(usage.instance_id)), *usage_cells(usage), Cell(str(usage.processes)), _time(usage)]
        for usage in shown
    ]
    lines = table(_TOP_COLUMNS, rows, limit)
    more = len(usages) - len(shown)
    return [head, "", *lines, *([f"and {more} more"] if more else [])]


def _time(usage: pb.InstanceUsage) -> Cell:
    from hostmanager_client.cli.text import duration

    return Cell(duration(usage.cpu_time.seconds + usage.cpu_time.nanos / 1e9))
