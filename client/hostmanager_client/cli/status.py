"""The command `hostmanager status`."""

from __future__ import annotations

import click

from hostmanager_client.cli import read
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, failing_option, ids_argument


@click.command("status")
@ids_argument()
@failing_option
@click.option("--check", is_flag=True, help="Exit 7 if something is wrong.")
@click.option(
    "--wide", is_flag=True, help="Show all columns, with CPU, memory, tasks and descriptors, at any width."
)
@common_options
@click.pass_context
def status_command(
    ctx: click.Context, instance_ids: tuple[str, ...], *, failing: bool, check: bool, wide: bool
) -> None:
    """Show the manager and all or the named instances.

    Instances in trouble come first, then the others in the order of the site config. On a terminal the table
    fits the width; without a terminal it always has all columns.

    --failing shows only what is failing, and exits 7 if there is such an instance. --check shows all and
    exits 7 if an instance is failing; without IDs also if the manager is not running, a file of the config
    has errors, or the daemon reports a problem.

    \b
      hostmanager status 'thermo*'     instances by a pattern of ids
      hostmanager status class:Disk    by agent class
      hostmanager status @rack=3       by label
    """
    ctx.exit(read.show_status(pass_session(), instance_ids, failing=failing, check=check, wide=wide))
