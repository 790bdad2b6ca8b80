"""Waits for targets, with a progress display."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from hostmanager_client.cli.cli_session import CliSession
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_line

if TYPE_CHECKING:
    from hostmanager_client.calls import Target
    from hostmanager_client.sync import HostManagerClient
    from hostmanager_client.waiting import WaitProgress

WAIT_TIMEOUT = 120.0  # s
SHOWN = 10  # instances in the live display


class _Display:
    """Progress on standard error: refreshed in place on a terminal, else one line for each change."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.refresh: Callable[[], None] | None = None  # refreshes the lines in place; None off a terminal
        self._printed: dict[str, str] = {}
        self._newest: WaitProgress | None = None

    def lines(self) -> list[str]:
        """Return the lines of the live display."""
        if self._newest is None:
            return ["waiting for the daemon"]
        unreached = [*self._newest.hopeless, *self._newest.pending]
        more = [f"  and {len(unreached) - SHOWN} more"] if len(unreached) > SHOWN else []
        return [
            f"{len(self._newest.reached)} of {self._total} reached the target",
            *(f"  {one_line(str(one))}" for one in unreached[:SHOWN]),
            *more,
        ]

    def observe(self, progress: WaitProgress) -> None:
        """Show the newest progress."""
        self._newest = progress
        if self.refresh is not None:
            self.refresh()
            return
        now = {one.instance_id: one_line(str(one)) for one in (*progress.pending, *progress.hopeless)}
        now |= {i: f"{one_line(i)}: reached the target" for i in progress.reached}
        for instance_id, line in now.items():
            if self._printed.get(instance_id) != line:
                print_line(line, err=True)
        self._printed = now


def follow(
    session: CliSession,
    client: HostManagerClient,
    generations: Mapping[str, int],
    targets: Mapping[str, Target],
    epoch: str,
) -> WaitProgress:
    """Wait for the targets; raise TargetNotReached if one is not reached."""
    from hostmanager_client.cli.documents import connection_line
    from hostmanager_client.reconnect import ConnectionChange

    def report(change: ConnectionChange) -> None:
        if not session.json:
            print_line(connection_line(change), err=True)

    display = _Display(len(generations))
    live: AbstractContextManager[object] = nullcontext()
    if sys.stderr.isatty() and not session.json:
        from hostmanager_client.cli.live_lines import LiveLines

        live = lines = LiveLines(display.lines, stderr=True)
        display.refresh = lines.refresh
    with live:
        return client.wait_for(
            generations,
            targets=targets,
            epoch=epoch,
            timeout=session.timeout or WAIT_TIMEOUT,
            on_progress=None if session.json else display.observe,
            on_connection=report,
        )


def follow_all(session: CliSession, client: HostManagerClient) -> WaitProgress:
    """Wait until all instances have reached their targets and retired instances have left."""
    from hostmanager_client.calls import DOWN

    state = client.get_state()
    generations = {i.instance_id: i.generation for i in state.instances.values()}
    targets = {i.instance_id: DOWN if i.retired else i.target_state for i in state.instances.values()}
    return follow(session, client, generations, targets, state.epoch)


def wait_json(progress: WaitProgress) -> dict[str, Any]:
    """Return the `wait` part of a --json answer, after all targets are reached."""
    return {"reached": list(progress.reached)}
