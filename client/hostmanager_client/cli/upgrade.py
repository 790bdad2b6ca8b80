"""The command `hostmanager upgrade`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.options import common_options, reason_option
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.errors import DeadlineExceeded, Unreachable

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.sync import HostManagerClient

_BACK_WITHIN = 30.0  # s; a fraction of a second, plus the time for the site config and compose files
_ASK_EVERY = 0.02  # s


@click.command("upgrade")
@click.option("--check", is_flag=True, help="Only check whether the installed code would start.")
@reason_option
@common_options
def upgrade_command(*, check: bool, reason: str) -> None:
    """Replace the running daemon with the installed code.

    The daemon re-executes itself: it keeps its pid, services keep running, and watches resume. If the
    installed code does not start, the old daemon continues. Returns when the new daemon answers; --timeout
    limits the wait (default 30 s).
    """
    session = pass_session()
    with session.connect() as client:
        before = client.get_status().manager
        answer = client.upgrade(expected_epoch=before.epoch, validate_only=check, reason=reason)
        if check:
            _show_check(before, answer, as_json=session.json)
            return
        after, away = _successor(client, before.epoch, session.timeout or _BACK_WITHIN)
    if session.json:
        print_json(
            {
                "pid": after.pid,
                "previous_version": before.version,
                "version": after.version,
                "previous_epoch": before.epoch,
                "epoch": after.epoch,
                "away_seconds": round(away, 3),
            }
        )
    else:
        print_line(
            f"upgraded from {one_line(before.version)} to {one_line(after.version)} (pid {after.pid}); "
            f"away for {away:.2f} s"
        )


def _show_check(before: pb.ManagerStatus, answer: pb.UpgradeResponse, *, as_json: bool) -> None:
    if as_json:
        print_json({"previous_version": before.version, "version": answer.version})
    else:
        version, running = one_line(answer.version), one_line(before.version)
        print_line(f"the installed code starts: version {version}; the daemon runs {running}")


def _successor(client: HostManagerClient, epoch: str, patience: float) -> tuple[pb.ManagerStatus, float]:
    """Wait for the new daemon; return its status and the time in s without an answer.

    Raises the error of the last attempt if no new daemon answers within `patience` s.
    """
    answered = began = time.monotonic()
    while True:
        try:
            manager = client.get_status().manager
        except (Unreachable, DeadlineExceeded):
            if time.monotonic() > began + patience:
                raise
        else:
            if manager.epoch != epoch:
                return manager, time.monotonic() - answered
            answered = time.monotonic()
            if answered > began + patience:
                raise click.ClickException(
                    f"cannot upgrade: the old daemon (pid {manager.pid}) still runs after {patience:g} s; "
                    "its log has the reason"
                )
        time.sleep(_ASK_EVERY)
