"""The command `hostmanager why`."""

from __future__ import annotations

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.explain import explain
from hostmanager_client.cli.options import common_options, ids_argument


@click.command("why")
@ids_argument()
@common_options
def why_command(instance_ids: tuple[str, ...]) -> None:
    """Explain everything that is not as wanted, or the named instances.

    Tells since when, how the runs ended and what they wrote, when the instance last worked and what changed
    then, who waits for whom, the next attempt, and what to try. Exits 1 if anything is not as wanted.

    \b
      hostmanager why
      hostmanager why heater
    """
    if explain(pass_session(), instance_ids):
        raise click.exceptions.Exit(1)
