"""The commands `hostmanager manager start|stop|status`."""

from __future__ import annotations

import click

from hostmanager_client.cli import read
from hostmanager_client.cli.change import to_changes
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.groups import SuggestingGroup
from hostmanager_client.cli.options import common_options, reason_option, wait_option
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.cli.targets import changes_argument


@click.group("manager", cls=SuggestingGroup, subcommand_metavar="start|stop|status")
@common_options
def manager_command() -> None:
    """Start, stop or show the manager, which keeps the instances at their targets."""


@manager_command.command("start")
@changes_argument
@click.option(
    "--reload/--no-reload",
    "reload_config",
    default=True,
    show_default=True,
    help="Drop all instances and read the site config again.",
)
@wait_option
@reason_option
@common_options
def start_command(
    changes: tuple[tuple[str, str], ...], *, reload_config: bool, wait: bool, reason: str
) -> None:
    """Start the manager, then apply the changes of targets in order.

    \b
      hostmanager manager start all=up data1=down --wait
    """
    session = pass_session()
    with session.connect() as client:
        answer = client.start_manager(to_changes(changes), reload_config=reload_config, reason=reason)
        progress = None
        if not session.json:
            print_line("manager started")
        if wait:
            from hostmanager_client.cli.wait_progress import follow_all

            progress = follow_all(session, client)
    if session.json:
        from hostmanager_client.cli.wait_progress import wait_json
        from hostmanager_client.words import to_json

        print_json(to_json(answer) | ({"wait": wait_json(progress)} if progress is not None else {}))
    elif progress is not None:
        print_line(f"{len(progress.reached)} instances reached the target")


@manager_command.command("stop")
@reason_option
@common_options
def stop_command(*, reason: str) -> None:
    """Bring every instance down and stop the manager; return when all are down.

    --timeout limits the wait (default 120 s). After a timeout the daemon continues to stop.
    """
    session = pass_session()
    with session.connect() as client:
        answer = client.stop_manager(reason=reason)
    if session.json:
        from hostmanager_client.words import to_json

        print_json(to_json(answer))
    else:
        print_line("manager stopped, all instances are down")


@manager_command.command("status")
@common_options
def status_command() -> None:
    """Show the manager without its instances."""
    read.show_manager(pass_session())
