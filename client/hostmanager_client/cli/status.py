"""The command `hostmanager status`."""

from __future__ import annotations

import click

from hostmanager_client.cli import read
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, ids_argument


@click.command("status")
@ids_argument()
@common_options
def status_command(instance_ids: tuple[str, ...]) -> None:
    """Show the manager and all or the named instances, sorted by id."""
    read.show_status(pass_session(), instance_ids)
