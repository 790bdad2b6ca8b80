"""The command `hostmanager events`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import common_options, ids_argument
from hostmanager_client.cli.output import print_json, print_line

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb


@click.command("events")
@ids_argument()
@click.option("--follow", "-f", is_flag=True, help="Then print every new event.")
@click.option(
    "--lines",
    "-n",
    "newest",
    type=click.IntRange(0, 100_000),
    default=50,
    show_default=True,
    help="Number of past events to show.",
)
@common_options
def events_command(instance_ids: tuple[str, ...], *, follow: bool, newest: int) -> None:
    """Show the events of all or of the named instances, oldest first.

    \b
      hostmanager events -n 5 thermo1    the last five events of an instance
      hostmanager events -f              all events, until Ctrl-C
    """
    session = pass_session()
    with session.connect() as client:
        # Following needs the token of at least one event, even with -n 0.
        listing = client.list_events(instance_ids, newest=max(newest, 1))
        for event in listing.events[-newest:] if newest else ():
            _show(event, as_json=session.json)
        if not follow:
            return
        from hostmanager_client.cli.follow import connection_reporter

        stream = client.watch_events(
            instance_ids,
            resume_token=listing.resume_token,
            on_connection=connection_reporter(as_json=session.json),
        )
        for event_or_gap in stream:
            _show(event_or_gap, as_json=session.json)


def _show(event: pb.Event | pb.EventGap, *, as_json: bool) -> None:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client import words
    from hostmanager_client.cli.escape import one_line
    from hostmanager_client.last_output import last_line

    if isinstance(event, pb.EventGap):
        if as_json:
            print_json({"type": "gap", **words.to_json(event)}, lines=True)
        else:
            missed = f"{event.missed} events are" if event.missed else "events may be"
            print_line(f"--- {missed} missing here: {one_line(event.message)}")
        return
    if as_json:
        print_json({"type": "event", **words.to_json(event)}, lines=True)
        return
    when = f"{words.to_datetime(event.time).astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3]
    color = {pb.SEVERITY_WARNING: "yellow", pb.SEVERITY_ERROR: "red"}.get(event.severity)
    severity = click.style(f"{words.severity_word(event.severity):7}", fg=color)
    instance_id = one_line(event.instance_id) or "-"
    text = one_line(f"{event.reason}: {event.message}") if event.message else one_line(event.reason)
    if event.exit.last_output:
        text += f': "{one_line(last_line(event.exit))}"'
    print_line(f"{when}  {severity}  {words.event_word(event.kind):12}  {instance_id:16}  {text}")
