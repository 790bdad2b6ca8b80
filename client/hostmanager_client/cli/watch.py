"""The command `hostmanager watch`."""

from __future__ import annotations

import os
import sys

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, failing_option, ids_argument
from hostmanager_client.cli.output import print_json
from hostmanager_client.cli.presence import require_instances
from hostmanager_client.cli.selection import names_of


@click.command("watch")
@ids_argument()
@click.option("--lines", is_flag=True, help="Print JSON lines on a terminal, too.")
@failing_option
@common_options
def watch_command(instance_ids: tuple[str, ...], *, lines: bool, failing: bool) -> None:
    """Follow the status of all or of the named instances, until Ctrl-C.

    Of a selector and of --failing, instances appear when they begin to match, and go when they no longer do.

    Shows a screen on a terminal; its key ? lists the keys. With --lines or --json, without a terminal, and
    with TERM=dumb, prints JSON lines: first the full status, then the changes.
    """
    session = pass_session()
    with session.connect() as client:
        names = names_of(instance_ids)
        require_instances(client, names)
        if not session.json and not lines and _can_show_screen():
            from hostmanager_client.cli.screen.run import run_screen

            run_screen(client, names, failing=failing)
            return
        from hostmanager_client.cli.documents import update_json
        from hostmanager_client.cli.follow import connection_reporter
        from hostmanager_client.cli.reader import until_reader_leaves

        with until_reader_leaves(client.close):
            for update in client.watch(
                names, failing=failing, on_connection=connection_reporter(as_json=True)
            ):
                print_json(update_json(update), lines=True)


def _can_show_screen() -> bool:
    """Return whether a person sits at a terminal that can show a screen."""
    terminal = os.environ.get("TERM", "")
    return sys.stdin.isatty() and sys.stdout.isatty() and terminal not in ("", "dumb", "unknown")
