"""`hostmanager upgrade`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.options import common_options
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.cli.session import pass_session
from hostmanager_client.errors import DeadlineExceeded, Unreachable

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.sync import HostManagerClient

_BACK_WITHIN = 30.0  # s; it takes a fraction of one, and then what the site config and compose files need
_ASK_EVERY = 0.02  # s


@click.command("upgrade")
@click.option("--check", is_flag=True, help="Only test whether the installed code would start.")
@common_options
def upgrade_command(*, check: bool) -> None:
    """Replace the running daemon by the code that is installed now, in place.

    The daemon re-executes itself: its pid stays, every instance keeps running, watchers resume. If the
    installed code does not start, nothing changes. Returns with the answer of the new daemon; --timeout
    bounds the wait (default 30 s).
    """
    session = pass_session()
    with session.connect() as client:
        before = client.get_status().manager
        answer = client.upgrade(expected_epoch=before.epoch, validate_only=check)
        if check:
            _show_check(before, answer, as_json=session.json)
            return
        after, away = _successor(client, before.epoch, session.timeout or _BACK_WITHIN)
    if session.json:
        print_json(
            {
                "pid": after.pid,
                "previousVersion": before.version,
                "version": after.version,
                "previousEpoch": before.epoch,
                "epoch": after.epoch,
                "awaySeconds": round(away, 3),
            }
        )
    else:
        print_line(
            f"upgraded from {one_line(before.version)} to {one_line(after.version)} (pid {after.pid}); "
            f"away for {away:.2f} s"
        )


def _show_check(before: pb.ManagerStatus, answer: pb.UpgradeResponse, *, as_json: bool) -> None:
    if as_json:
        print_json({"previousVersion": before.version, "version": answer.version})
    else:
        version, running = one_line(answer.version), one_line(before.version)
        print_line(f"the code installed now starts: version {version}; {running} runs")


def _successor(client: HostManagerClient, epoch: str, patience: float) -> tuple[pb.ManagerStatus, float]:
    """The daemon that took over, and for how long, in s, none answered. Raises the error of the last attempt
    when there is none in time."""
    heard = began = time.monotonic()
    while True:
        try:
            manager = client.get_status().manager
        except (Unreachable, DeadlineExceeded):
            if time.monotonic() > began + patience:
                raise
        else:
            if manager.epoch != epoch:
                return manager, time.monotonic() - heard
            heard = time.monotonic()
            if heard > began + patience:
                raise click.ClickException(
                    f"the daemon (pid {manager.pid}) has not given way after {patience:g} s; its log says why"
                )
        time.sleep(_ASK_EVERY)
