"""The commands `hostmanager hold` and `hostmanager release`."""

from __future__ import annotations

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.durations import read_duration
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.options import common_options, ids_argument
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.cli.selection import resolve_ids
from hostmanager_client.words import to_datetime, to_json


@click.command("hold")
@ids_argument(required=True)
@click.option(
    "--for",
    "seconds",
    callback=read_duration,
    metavar="DURATION",
    help="When the hold ends by itself, such as 30m or 2h. Default: at its release.",
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for everyone who looks.")
@common_options
def hold_command(instance_ids: tuple[str, ...], *, seconds: float | None, reason: str) -> None:
    """Let the daemon neither start nor restart instances for a while.

    What runs goes on. What ends stays down until the end of the hold; then the target is enforced again.
    `up` and `restart` of a held instance are refused, `down` works.

    \b
      hostmanager hold cryo --for 2h --reason "valve swap"
      hostmanager release cryo
    """
    session = pass_session()
    with session.connect() as client:
        ids = resolve_ids(client, instance_ids)
        answer = client.hold(ids, seconds, reason=reason)
    if session.json:
        print_json(to_json(answer))
        return
    until = "until released"
    if answer.HasField("end_time"):
        until = f"until {to_datetime(answer.end_time):%Y-%m-%d %H:%M:%S} UTC"
    why = f" ({one_line(reason)})" if reason else ""
    for instance_id in ids:
        print_line(f"{one_line(instance_id)}: held {until}{why}")


@click.command("release")
@ids_argument()
@click.option("--all", "everything", is_flag=True, help="All held instances.")
@common_options
def release_command(instance_ids: tuple[str, ...], *, everything: bool) -> None:
    """End holds before their time. The targets of the instances are enforced again."""
    if bool(instance_ids) == everything:
        raise click.UsageError("Name one or more instances, or use --all, not both.")
    session = pass_session()
    with session.connect() as client:
        ids = resolve_ids(client, instance_ids) if instance_ids else ()
        answer = client.release(ids, all_held=everything)
    if session.json:
        print_json(to_json(answer))
        return
    for instance_id in ids or ("all holds",):
        print_line(f"{one_line(instance_id)}: released")
