"""The table of orphaned containers."""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.tables.layout import Column, table, terminal_width
from hostmanager_client.cli.text import Cell, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

_COLUMNS = (
    Column("CONTAINER"),
    Column("SERVICE", name=True),
    Column("STATE"),
    Column("COMPOSE FILE", text=True),
)


def orphan_lines(orphans: Mapping[str, pb.Orphan]) -> list[str]:
    """Return the lines of a summary and a table, running containers first."""
    found = sorted(orphans.items(), key=lambda item: (not item[1].running, item[1].service, item[0]))
    rows = [
        [
            Cell(short_id(one_line(container_id))),
            Cell(one_line(orphan.service)),
            Cell("running", "green") if orphan.running else Cell(f"exited ({orphan.exit_code})"),
            Cell(one_line(orphan.compose_file)),
        ]
        for container_id, orphan in found
    ]
    running = sum(orphan.running for _, orphan in found)
    counts = [
        f"{count} {word}" for count, word in ((running, "running"), (len(found) - running, "exited")) if count
    ]
    return [displayable(" · ").join(counts), "", *table(_COLUMNS, rows, terminal_width())]
