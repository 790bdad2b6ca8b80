"""The command `hostmanager die`."""

from __future__ import annotations

import sys

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, reason_option
from hostmanager_client.cli.output import print_json, print_line


@click.command("die")
@click.option("--disown-dockers", is_flag=True, help="Leave compose services running.")
@click.option("--disown-processes", is_flag=True, help="Leave native processes running.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation (asked on a terminal only).")
@reason_option
@common_options
def die_command(*, disown_dockers: bool, disown_processes: bool, yes: bool, reason: str) -> None:
    """Bring all instances down and end the daemon; return when the daemon has ended.

    The next daemon takes over native processes that still run.
    """
    session = pass_session()
    with session.connect() as client:
        # The epoch protects a daemon that starts meanwhile.
        manager = client.get_status().manager
        if not yes and sys.stdin.isatty() and sys.stdout.isatty():
            click.confirm(f"End the daemon (pid {manager.pid}) at {client.address}?", abort=True)
        answer = client.die(
            disown_dockers=disown_dockers,
            disown_processes=disown_processes,
            expected_epoch=manager.epoch,
            reason=reason,
        )
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(answer))
    else:
        disowned_kinds = [
            word
            for word, disowned in (("compose services", disown_dockers), ("processes", disown_processes))
            if disowned
        ]
        rest = f"; {' and '.join(disowned_kinds)} still run" if disowned_kinds else ""
        print_line(f"the daemon (pid {manager.pid}) has ended{rest}")
