"""Waiting for a target, with its progress shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_line
from hostmanager_client.cli.session import CliSession

if TYPE_CHECKING:
    from hostmanager_client.calls import Target
    from hostmanager_client.sync import HostManagerClient
    from hostmanager_client.waiting import WaitProgress

WAIT_TIMEOUT = 120.0  # s
SHOWN = 10  # instances that the live display lists


class _Display:
    """Progress as lines: kept in place on a terminal, one for each change elsewhere. On standard error."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.refresh: Callable[[], None] | None = None  # of what keeps the lines in place
        self._told: dict[str, str] = {}
        self._newest: WaitProgress | None = None

    def lines(self) -> list[str]:
        if self._newest is None:
            return ["waiting for the daemon"]
        left = [*self._newest.hopeless, *self._newest.pending]
        more = [f"  and {len(left) - SHOWN} more"] if len(left) > SHOWN else []
        return [
            f"{len(self._newest.reached)} of {self._total} reached the target",
            *(f"  {one_line(str(one))}" for one in left[:SHOWN]),
            *more,
        ]

    def observe(self, progress: WaitProgress) -> None:
        self._newest = progress
        if self.refresh is not None:
            self.refresh()
            return
        now = {one.instance_id: one_line(str(one)) for one in (*progress.pending, *progress.hopeless)}
        now |= {i: f"{one_line(i)}: reached the target" for i in progress.reached}
        for instance_id, line in now.items():
            if self._told.get(instance_id) != line:
                print_line(line, err=True)
        self._told = now


def follow(
    session: CliSession,
    client: HostManagerClient,
    generations: Mapping[str, int],
    targets: Mapping[str, Target],
    epoch: str,
) -> WaitProgress:
    """Wait until the target is reached. Raises TargetNotReached."""
    from hostmanager_client.cli.documents import connection_line
    from hostmanager_client.reconnect import ConnectionChange

    def tell(change: ConnectionChange) -> None:
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
            on_connection=tell,
        )


def follow_all(session: CliSession, client: HostManagerClient) -> WaitProgress:
    """Wait until all that is asked of every instance is carried out, and what retires is gone."""
    from hostmanager_client.calls import DOWN

    state = client.get_state()
    generations = {i.instance_id: i.generation for i in state.instances.values()}
    targets = {i.instance_id: DOWN if i.retired else i.target_state for i in state.instances.values()}
    return follow(session, client, generations, targets, state.epoch)


def wait_json(progress: WaitProgress) -> dict[str, Any]:
    """The `wait` of a --json answer. Printed only when all is reached; else the error says who is not."""
    return {"reached": list(progress.reached)}
