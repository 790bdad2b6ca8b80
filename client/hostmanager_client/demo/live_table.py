"""The live table of the demo, for terminals."""

from __future__ import annotations

import time
from contextlib import closing

import click

from hostmanager_client.cli.live_lines import LiveLines
from hostmanager_client.cli.tables.status import status_lines
from hostmanager_client.demo.lab import DemoError, DemoLab
from hostmanager_client.state import HostState


def show_live(lab: DemoLab) -> None:
    """Show the lab until a signal; raise HostManagerError or DemoError if the watch ends."""
    hints = (
        "",
        "try, in another terminal:",
        f"  export HOSTMANAGER_ADDRESS={lab.address}",
        f"  {lab.command} down readout --wait",
        "  kill -9 PID",
        *((f"  $EDITOR {lab.services.file}",) if lab.services else ()),
        "Ctrl-C ends the demo",
    )
    with lab.client() as client:
        newest: list[tuple[HostState, float]] = []

        def lines() -> list[str]:
            if not newest:
                return []
            state, received = newest[-1]
            now = state.time.timestamp() + time.monotonic() - received
            return [*status_lines(state, now, lab.address), *(click.style(hint, dim=True) for hint in hints)]

        with closing(client.watch(on_connection=lab.check_daemon)) as updates, LiveLines(lines) as live:
            for update in updates:
                newest[:] = [(update.state, time.monotonic())]
                live.refresh()
    raise DemoError("the daemon ended the watch")
