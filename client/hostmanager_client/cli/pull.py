"""The command `hostmanager pull`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import SecondsRange, common_options, ids_argument, reason_option
from hostmanager_client.cli.output import print_json, print_line
from hostmanager_client.cli.selection import resolve_ids

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostmanager.v1 import host_manager_pb2 as pb


@click.command("pull")
@ids_argument()
@click.option("--new-only", is_flag=True, help="Skip images that the engine has.")
@click.option("--detach", is_flag=True, help="Continue the pull after its last client has left.")
@click.option(
    "--progress-timeout",
    type=SecondsRange(1, 3600),
    metavar="SECONDS",
    help="Fail an image without progress for this time. Default: 60.",
)
@reason_option
@common_options
def pull_command(
    instance_ids: tuple[str, ...],
    *,
    new_only: bool,
    detach: bool,
    progress_timeout: float | None,
    reason: str,
) -> None:
    """Pull the images of the managed compose files, or of the named instances.

    If a pull already runs, follow it. Containers keep their images; `restart` moves an instance to its new
    image. Exits 1 if a pull failed.

    \b
      hostmanager pull weather
      hostmanager restart weather --wait
    """
    session = pass_session()
    from hostmanager_client.cli.reader import until_reader_leaves

    with session.connect() as client, until_reader_leaves(client.close):
        ids = resolve_ids(client, instance_ids) if instance_ids else ()
        messages = client.docker_pull(
            ids,
            new_only=new_only,
            detach=detach,
            progress_timeout=progress_timeout,
            reason=reason,
        )
        if session.json:
            result = _print_json(messages)
        elif sys.stdout.isatty():
            from hostmanager_client.cli.pull_bars import show_bars

            result = show_bars(messages)
        else:
            result = _print_lines(messages)
    if not session.json:
        from hostmanager_client.cli.pull_text import summary

        print_line(summary(result))
    if result.failed or result.cancelled:
        raise click.exceptions.Exit(1)


def _print_json(messages: Iterable[pb.DockerPullResponse]) -> pb.PullResult:
    from hostmanager_client.words import to_json

    for message in messages:
        print_json(to_json(message), lines=True)
    return message.result


def _print_lines(messages: Iterable[pb.DockerPullResponse]) -> pb.PullResult:
    """Print a line for each new state of an image; return the result."""
    from hostmanager_client.cli.pull_text import image_line

    known: dict[str, int] = {}
    for message in messages:
        if message.joined and not known:
            print_line("following the running pull", err=True)
        for image in message.images:
            if known.get(image.image) != image.state:
                known[image.image] = image.state
                print_line(image_line(image))
    return message.result
