"""`hostmanager logs`."""

from __future__ import annotations

import click

from hostmanager_client.cli.options import common_options, id_argument
from hostmanager_client.cli.output import print_json, print_log
from hostmanager_client.cli.session import pass_session


@click.command("logs")
@id_argument
@click.option("--follow", "-f", is_flag=True, help="Continue with every new line.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, 100_000),
    default=100,
    show_default=True,
    help="The number of last lines to show.",
)
@click.option("--raw", is_flag=True, help="Let control characters through to a terminal.")
@common_options
def logs_command(instance_id: str, *, follow: bool, lines: int, raw: bool) -> None:
    """Show the last lines of what an instance wrote to its output.

    On a terminal control characters are shown as escapes such as \\x1b, and colours end with their line. In
    a pipe or a file the output is unchanged.
    """
    session = pass_session()
    from hostmanager_client.cli.follow import connection_reporter
    from hostmanager_client.words import to_json

    with session.connect() as client:
        tell = connection_reporter(as_json=session.json)
        for line in client.tail_logs(instance_id, lines=lines, follow=follow, on_connection=tell):
            if session.json:
                print_json(to_json(line), lines=True)
            else:
                print_log(line.text, continues=line.continues, raw=raw)
