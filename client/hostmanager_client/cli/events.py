"""The command `hostmanager events`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hostmanager_client import words
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.moments import read_moment
from hostmanager_client.cli.options import common_options, failing_option, ids_argument
from hostmanager_client.cli.output import print_json, print_line, print_lines
from hostmanager_client.cli.presence import require_events
from hostmanager_client.cli.selection import NONE_FAILING, names_of, resolve_ids
from hostmanager_client.event_filter import SEVERITIES

if TYPE_CHECKING:
    from datetime import datetime

    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.cli.tables.events import EventTable

DEFAULT_NEWEST = 50
MOST_NEWEST = 100_000  # that a daemon keeps


@click.command("events")
@ids_argument()
@click.option("--follow", "-f", is_flag=True, help="Then print every new event.")
@click.option(
    "--lines",
    "-n",
    "newest",
    type=click.IntRange(0, MOST_NEWEST),
    help="Number of past events to show. Default: 50; all with --since.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=read_moment,
    help="Only events since this time: 2h (ago), 16:20, yesterday, or '2026-11-28 16:20'.",
)
@click.option("--until", metavar="TIME", callback=read_moment, help="Only events before this time.")
@click.option(
    "--reason",
    "reasons",
    metavar="WORD",
    multiple=True,
    help="Only events with this reason, such as Exited; repeat the option for several reasons.",
)
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    default=SEVERITIES[0],
    help="Only events of at least this severity.",
)
@failing_option
@common_options
def events_command(
    instance_ids: tuple[str, ...],
    *,
    follow: bool,
    newest: int | None,
    since: datetime | None,
    until: datetime | None,
    reasons: tuple[str, ...],
    severity: str,
    failing: bool,
) -> None:
    """Show the events of all or of the named instances, oldest first.

    The daemon remembers the events of 30 days, over restarts and reboots.

    \b
      hostmanager events -n 5 thermo1         the last five events of an instance
      hostmanager events --since 2h --severity warning
      hostmanager events --reason GaveUp --reason StartFailed --since yesterday
      hostmanager events --failing            the events of instances that are failing now
      hostmanager events -f                   all events, until Ctrl-C
    """
    if follow and until is not None:
        raise click.UsageError("--follow and --until exclude each other.")
    if newest is None:
        newest = DEFAULT_NEWEST if since is None else MOST_NEWEST
    session = pass_session()
    with session.connect() as client:
        names = names_of(instance_ids)
        if failing:
            names = resolve_ids(client, instance_ids, failing=True)
            if not names:
                if not session.json:
                    print_line(NONE_FAILING, err=True)
                return
        # Following needs the token of at least one event, even with -n 0.
        listing = client.list_events(
            names,
            newest=max(newest, 1),
            since=since,
            until=until,
            reasons=reasons,
            min_severity=severity,
        )
        require_events(client, names)
        table = None
        if not session.json:
            from hostmanager_client.cli.tables.events import EventTable

            table = EventTable((*names, *(event.instance_id for event in listing.events)))
        for event in listing.events[-newest:] if newest else ():
            _show(event, table)
        if not follow:
            return
        from hostmanager_client.cli.follow import connection_reporter
        from hostmanager_client.cli.reader import until_reader_leaves

        stream = client.watch_events(
            names,
            resume_token=listing.resume_token,
            on_connection=connection_reporter(as_json=session.json),
            reasons=reasons,
            min_severity=severity,
        )
        with until_reader_leaves(client.close):
            for event_or_gap in stream:
                _show(event_or_gap, table)


def _show(event: pb.Event | pb.EventGap, table: EventTable | None) -> None:
    """Print an event or a gap: as JSON without a table."""
    from hostmanager.v1 import host_manager_pb2 as pb

    if isinstance(event, pb.EventGap):
        _show_gap(event, as_json=table is None)
    elif table is not None:
        print_lines(table.lines(event))
    else:
        print_json({"type": "event", **words.to_json(event)}, lines=True)


def _show_gap(gap: pb.EventGap, *, as_json: bool) -> None:
    if as_json:
        print_json({"type": "gap", **words.to_json(gap)}, lines=True)
        return
    missed = f"{gap.missed} events are" if gap.missed else "events may be"
    print_line(f"--- {missed} missing here: {one_line(gap.message)}")
