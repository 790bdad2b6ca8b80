"""The command `hostmanager status`."""

from __future__ import annotations

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, ids_argument
from hostmanager_client.cli.output import print_json, print_lines


@click.command("status")
@ids_argument()
@common_options
def status_command(instance_ids: tuple[str, ...]) -> None:
    """Show the manager and all or the named instances, sorted by id."""
    session = pass_session()
    with session.connect() as client:
        state = client.get_state(instance_ids)
        address = str(client.address)
    if session.json:
        from hostmanager_client.cli.documents import state_json

        print_json(state_json(state))
        return
    from hostmanager_client.cli.view import status_lines

    print_lines(status_lines(state, state.time.timestamp(), address))
