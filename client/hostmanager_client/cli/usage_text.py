"""What instances use, as text: sizes and percentages."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager_client.cli.text import Cell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

USAGE_HEADER = ("CPU", "MEMORY", "TASKS", "FDS")
_UNITS = ("B", "K", "M", "G", "T")
_NEAR_LIMIT = 0.9  # of the memory limit


def size(count: int) -> str:
    """Return a number of bytes as text: `512 B`, `3.2M`, `45M`, `1.5G`; units are powers of 1024."""
    value = float(max(0, count))
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f}{unit}" if value < 9.95 else f"{value:.0f}{unit}"


def percent(cpu: float) -> str:
    """Return the cores in use as the percentage of one core."""
    return f"{cpu * 100:.1f}%" if cpu < 0.0995 else f"{cpu * 100:.0f}%"


def usage_cells(usage: pb.InstanceUsage | None) -> list[Cell]:
    """Return the cells of the columns of USAGE_HEADER."""
    if usage is None:
        return [Cell("-")] * len(USAGE_HEADER)
    near = usage.HasField("memory_limit") and usage.memory > _NEAR_LIMIT * usage.memory_limit
    return [
        Cell(percent(usage.cpu) if usage.HasField("cpu") else "-"),
        Cell(_memory(usage), "red" if near else ""),
        Cell(str(usage.tasks)),
        Cell(str(usage.descriptors) if usage.HasField("descriptors") else "-"),
    ]


def _memory(usage: pb.InstanceUsage) -> str:
    limit = f" of {size(usage.memory_limit)}" if usage.HasField("memory_limit") else ""
    return f"{size(usage.memory)}{limit}"


def usage_pairs(usage: pb.InstanceUsage, age: float) -> Iterable[tuple[str, str]]:
    """Yield names and texts for `show`; `age` is that of the run, in s, 0 if unknown."""
    from hostmanager_client.cli.text import duration

    seconds = usage.cpu_time.seconds + usage.cpu_time.nanos / 1e9
    average = f", {percent(seconds / age)} on average" if age > 0 else ""
    yield "CPU time", f"{duration(seconds)}{average}"
    yield "memory", _memory(usage)
    processes = f"{usage.processes} process{'' if usage.processes == 1 else 'es'}"
    yield "tasks", f"{usage.tasks} in {processes}"
    yield "descriptors", str(usage.descriptors) if usage.HasField("descriptors") else ""
