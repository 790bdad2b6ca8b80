"""The command `hostmanager top`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import SecondsRange, common_options, failing_option, ids_argument
from hostmanager_client.cli.output import print_json, print_line, print_lines
from hostmanager_client.cli.presence import require_instances
from hostmanager_client.cli.read import WINDOW
from hostmanager_client.cli.selection import names_of
from hostmanager_client.cli.tables.layout import terminal_width
from hostmanager_client.cli.tables.top import SORTS, sort_usages, top_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.reconnect import ConnectionChange
    from hostmanager_client.sync import HostManagerClient

_OTHER_LINES = 5  # of the screen: the sum, a blank line, the header, the count of the others, the cursor


@click.command("top")
@ids_argument()
@click.option(
    "--sort",
    "sort",
    type=click.Choice(SORTS),
    default="cpu",
    show_default=True,
    help="The column to sort by, the largest value first.",
)
@click.option(
    "--interval",
    type=SecondsRange(0.5, 60),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two measurements.",
)
@click.option("--once", is_flag=True, help="Print one measurement and exit.")
@failing_option
@common_options
def top_command(
    instance_ids: tuple[str, ...], *, sort: str, interval: float, once: bool, failing: bool
) -> None:
    """Show what running instances use: CPU, memory, tasks and descriptors.

    The whole process tree of an instance counts, or all containers of its compose service. 100% is one core.
    On a terminal the table refreshes until Ctrl-C; in a pipe each measurement prints a table, and with --json
    one JSON object a line. The daemon measures only while such a command runs.

    \b
      hostmanager top --sort memory         the largest first
      hostmanager top --once --json @rack=3
    """
    session = pass_session()
    names = names_of(instance_ids)
    with session.connect() as client:
        if once:
            answer = client.get_usage(names, failing=failing, window=WINDOW)
            _show(answer, sort, as_json=session.json, lines=False)
            return
        require_instances(client, names)
        refreshes = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        if refreshes and not session.json:
            _live(client, names, sort, interval, failing=failing)
            return
        from hostmanager_client.cli.follow import connection_reporter
        from hostmanager_client.cli.reader import until_reader_leaves

        report = connection_reporter(as_json=session.json)
        samples = client.watch_usage(names, interval=interval, failing=failing, on_connection=report)
        with until_reader_leaves(client.close):
            for sample in samples:
                _show(sample, sort, as_json=session.json, lines=True)


def usage_json(sample: pb.GetUsageResponse | pb.WatchUsageResponse, usages: Iterable[Any]) -> dict[str, Any]:
    """Return the document of a measurement, with the usages in their order."""
    from hostmanager_client.words import to_json

    return {"time": to_json(sample)["time"], "usages": [to_json(usage) for usage in usages]}


def _show(
    sample: pb.GetUsageResponse | pb.WatchUsageResponse, sort: str, *, as_json: bool, lines: bool
) -> None:
    usages: Sequence[pb.InstanceUsage] = list(sample.usages)
    if as_json:
        document = usage_json(sample, sort_usages(usages, sort))
        print_json({"type": "usage", **document} if lines else document, lines=lines)
        return
    print_lines(top_lines(usages, sort, limit=terminal_width()))
    if lines:
        print_line("")


def _live(
    client: HostManagerClient, names: tuple[str, ...], sort: str, interval: float, *, failing: bool
) -> None:
    from shutil import get_terminal_size

    from hostmanager_client.cli.documents import connection_line
    from hostmanager_client.cli.live_lines import LiveLines
    from hostmanager_client.reconnect import Disconnected

    newest: list[pb.WatchUsageResponse] = []
    trouble: list[str] = []

    def lines() -> list[str]:
        if not newest:
            return [*trouble, f"waiting for the daemon at {client.address}"]
        most = max(1, get_terminal_size().lines - _OTHER_LINES - len(trouble))
        return [*trouble, *top_lines(list(newest[-1].usages), sort, most, terminal_width())]

    def connection(change: ConnectionChange) -> None:
        lost = isinstance(change, Disconnected)
        trouble[:] = [click.style(connection_line(change), fg="red")] if lost else []
        live.refresh()

    with LiveLines(lines) as live:
        for sample in client.watch_usage(names, interval=interval, failing=failing, on_connection=connection):
            newest[:] = [sample]
            live.refresh()
