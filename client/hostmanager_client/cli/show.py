"""The command `hostmanager show`."""

from __future__ import annotations

import click

from hostmanager_client.cli import read
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, id_argument


@click.command("show")
@id_argument
@common_options
def show_command(instance_id: str) -> None:
    """Show all properties of one instance."""
    read.show_instance(pass_session(), instance_id)
