"""The command `hostmanager watch`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, ids_argument
from hostmanager_client.cli.output import print_json
from hostmanager_client.cli.presence import require_instances

if TYPE_CHECKING:
    from hostmanager_client.reconnect import ConnectionChange
    from hostmanager_client.sync import HostManagerClient


@click.command("watch")
@ids_argument()
@common_options
def watch_command(instance_ids: tuple[str, ...]) -> None:
    """Follow the status of all or of the named instances, until Ctrl-C.

    Shows a live table on a terminal. With --json, or without a terminal, prints JSON lines: first the full
    status, then the changes.
    """
    session = pass_session()
    with session.connect() as client:
        require_instances(client, instance_ids)
        if not session.json and sys.stdout.isatty():
            _live(client, instance_ids)
            return
        from hostmanager_client.cli.documents import update_json
        from hostmanager_client.cli.follow import connection_reporter
        from hostmanager_client.cli.reader import until_reader_leaves

        with until_reader_leaves(client.close):
            for update in client.watch(instance_ids, on_connection=connection_reporter(as_json=True)):
                print_json(update_json(update), lines=True)


def _live(client: HostManagerClient, instance_ids: tuple[str, ...]) -> None:
    from hostmanager_client.cli.documents import connection_line
    from hostmanager_client.cli.live_lines import LiveLines
    from hostmanager_client.cli.tables.status import status_lines
    from hostmanager_client.reconnect import Disconnected
    from hostmanager_client.state import HostState

    newest: list[tuple[HostState, float]] = []
    trouble: list[str] = []

    def lines() -> list[str]:
        if not newest:
            return [*trouble, f"waiting for the daemon at {client.address}"]
        state, received = newest[-1]
        # Ages use the clock of the daemon, as the clocks of two hosts may differ.
        now = state.time.timestamp() + (time.monotonic() - received)
        return [*trouble, *status_lines(state, now, str(client.address))]

    def connection(change: ConnectionChange) -> None:
        trouble[:] = (
            [click.style(connection_line(change), fg="red")] if isinstance(change, Disconnected) else []
        )
        live.refresh()

    with LiveLines(lines) as live:
        for update in client.watch(instance_ids, on_connection=connection):
            newest[:] = [(update.state, time.monotonic())]
            live.refresh()
