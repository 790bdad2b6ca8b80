"""The command `hostmanager show`."""

from __future__ import annotations

import click

from hostmanager_client.cli import read
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, failing_option, ids_argument


@click.command("show")
@ids_argument()
@failing_option
@common_options
def show_command(instance_ids: tuple[str, ...], *, failing: bool) -> None:
    """Show all properties of instances.

    With --json, a single id prints an object; several ids, a selector or --failing print a list.
    """
    if not instance_ids and not failing:
        raise click.UsageError("Missing argument '[ID]...': name one or more instances, or use --failing.")
    read.show_instances(pass_session(), instance_ids, failing=failing)
