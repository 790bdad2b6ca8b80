"""The command `hostmanager logs`."""

from __future__ import annotations

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, id_argument
from hostmanager_client.cli.output import print_json, print_log


@click.command("logs")
@id_argument
@click.option("--follow", "-f", is_flag=True, help="Then print every new line.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, 100_000),
    default=100,
    show_default=True,
    help="Number of past lines to show.",
)
@click.option("--raw", is_flag=True, help="Pass control characters to the terminal.")
@common_options
def logs_command(instance_id: str, *, follow: bool, lines: int, raw: bool) -> None:
    """Show the last output lines of an instance.

    On a terminal, control characters appear as escapes such as \\x1b, and colours end with their line. Output
    to a pipe or a file is unchanged.

    \b
      hostmanager logs -n 20 thermo1    the last 20 lines
      hostmanager logs -f thermo1       follow the output, until Ctrl-C
    """
    session = pass_session()
    from hostmanager_client.cli.follow import connection_reporter
    from hostmanager_client.cli.reader import until_reader_leaves
    from hostmanager_client.words import to_json

    with session.connect() as client, until_reader_leaves(client.close):
        report = connection_reporter(as_json=session.json)
        for line in client.tail_logs(instance_id, lines=lines, follow=follow, on_connection=report):
            if session.json:
                print_json(to_json(line), lines=True)
            else:
                print_log(line.text, continues=line.continues, raw=raw)
