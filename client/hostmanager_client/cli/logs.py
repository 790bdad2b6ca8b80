"""The command `hostmanager logs`."""

from __future__ import annotations

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, complete_ids
from hostmanager_client.cli.output import print_json, print_log


@click.command("logs")
@click.argument("instance_id", metavar="[ID]", required=False, shell_complete=complete_ids)
@click.option("--daemon", is_flag=True, help="The log of the daemon instead of an instance's output.")
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
def logs_command(instance_id: str | None, *, daemon: bool, follow: bool, lines: int, raw: bool) -> None:
    """Show the last output lines of an instance, or of the daemon's own log.

    On a terminal, control characters appear as escapes such as \\x1b, and colours end with their line. Output
    to a pipe or a file is unchanged.

    \b
      hostmanager logs -n 20 thermo1    the last 20 lines
      hostmanager logs -f thermo1       follow the output, until Ctrl-C
      hostmanager logs --daemon -n 50   what the daemon logged last
    """
    session = pass_session()
    if (instance_id is None) is not daemon:
        raise click.UsageError("Name an instance, or use --daemon, not both.")
    if instance_id is None:
        from hostmanager_client.cli.daemon_log import show_daemon_log

        show_daemon_log(session, lines, follow=follow, raw=raw)
        return
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
