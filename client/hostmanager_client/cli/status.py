"""The command `hostmanager status`."""

from __future__ import annotations

import click

from hostmanager_client.cli import read
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, ids_argument


@click.command("status")
@ids_argument()
@click.option("--wide", is_flag=True, help="Show all columns, however narrow the terminal is.")
@common_options
def status_command(instance_ids: tuple[str, ...], *, wide: bool) -> None:
    """Show the manager and all or the named instances.

    Instances in trouble come first, then the others in the order of the site config. On a terminal the table
    fits the width; without a terminal it always has all columns.
    """
    read.show_status(pass_session(), instance_ids, wide=wide)
