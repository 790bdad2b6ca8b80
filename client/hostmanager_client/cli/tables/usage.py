"""The columns of the table of instances that show what instances use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostmanager_client.cli.tables.instances import InstanceColumn
from hostmanager_client.cli.tables.layout import Column
from hostmanager_client.cli.text import Cell
from hostmanager_client.cli.usage_text import USAGE_HEADER, usage_cells

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb


def usage_columns(usages: Mapping[str, pb.InstanceUsage]) -> Sequence[InstanceColumn]:
    """Return a column for each of USAGE_HEADER."""
    return [_column(title, place, usages) for place, title in enumerate(USAGE_HEADER)]


def _column(title: str, place: int, usages: Mapping[str, pb.InstanceUsage]) -> InstanceColumn:
    def cell(instance: pb.ManagedInstance, now: float) -> Cell:
        return usage_cells(usages.get(instance.instance_id))[place]

    return InstanceColumn(Column(title, drop=1, right=True), cell)
