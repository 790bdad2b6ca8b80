"""The commands `hostmanager orphans list|remove`."""

from __future__ import annotations

import click

from hostmanager_client.cli.cli_session import current_session, pass_session
from hostmanager_client.cli.groups import SuggestingGroup
from hostmanager_client.cli.options import (
    COMPLETION_TIMEOUT,
    SecondsRange,
    common_options,
    reason_option,
    safe_words,
)
from hostmanager_client.cli.output import print_json, print_line, print_lines
from hostmanager_client.errors import HostManagerError

SHORT_ID = 12  # characters, as docker shows ids


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        with current_session(ctx).connect(timeout=COMPLETION_TIMEOUT) as client:
            orphans = client.get_status().manager.orphans
    except HostManagerError:
        return []
    return safe_words((container_id[:SHORT_ID] for container_id in orphans), incomplete)


@click.group("orphans", cls=SuggestingGroup, subcommand_metavar="list|remove")
@common_options
def orphans_command() -> None:
    """Show or remove containers without a service in the managed compose files."""


@orphans_command.command("list")
@common_options
def list_command() -> None:
    """Show the orphaned containers."""
    session = pass_session()
    with session.connect() as client:
        orphans = client.get_status().manager.orphans
    if session.json:
        from hostmanager_client.words import to_json

        print_json([to_json(orphans[container_id]) for container_id in sorted(orphans)])
        return
    if not orphans:
        print_line("no orphans")
        return
    from hostmanager_client.cli.tables.orphans import orphan_lines

    print_lines(orphan_lines(orphans))


@orphans_command.command("remove")
@click.argument("container_ids", metavar="[CONTAINER]...", nargs=-1, shell_complete=_complete)
@click.option(
    "--stop-timeout",
    type=SecondsRange(0, 3600),
    metavar="SECONDS",
    help="Time until a container that does not stop is killed; 0 kills at once. Default: 10.",
)
@reason_option
@common_options
def remove_command(container_ids: tuple[str, ...], stop_timeout: float | None, reason: str) -> None:
    """Stop and remove all or the named orphaned containers; a prefix of the id suffices.

    Exits 1 if a removal failed.
    """
    session = pass_session()
    failed = 0
    with session.connect() as client:
        for message in client.remove_orphans(container_ids, stop_timeout=stop_timeout, reason=reason):
            if session.json:
                from hostmanager_client.words import to_json

                print_json(to_json(message), lines=True)
            elif message.HasField("removal"):
                from hostmanager_client.cli.escape import one_line

                removal = message.removal
                what = one_line(f"{removal.container_id[:SHORT_ID]} ({removal.service})")
                if removal.removed:
                    print_line(f"{what}: removed")
                else:
                    print_line(f"{what}: not removed: {one_line(removal.message)}", err=True)
            if message.HasField("result"):
                failed = message.result.failed
                if not session.json and not message.result.removed and not failed:
                    print_line("no orphans")
    if failed:
        raise click.exceptions.Exit(1)
