"""`hostmanager pull`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from hostmanager_client.cli.options import SecondsRange, common_options, ids_argument
from hostmanager_client.cli.output import print_json, say
from hostmanager_client.cli.session import pass_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostmanager.v1 import host_manager_pb2 as pb


@click.command("pull")
@ids_argument()
@click.option("--new-only", is_flag=True, help="Only images that the engine does not have yet.")
@click.option("--detach", is_flag=True, help="Continue the pull after this and every other command has left.")
@click.option(
    "--progress-timeout",
    type=SecondsRange(1, 3600),
    metavar="SECONDS",
    help="The longest time of an image without progress. Default: 60.",
)
@common_options
def pull_command(
    instance_ids: tuple[str, ...], new_only: bool, detach: bool, progress_timeout: float | None
) -> None:
    """Pull the images of the managed compose files, or of the named instances.

    Joins a running pull. Restarts nothing: `restart` moves an instance to its new image. Exits 1 if an image
    could not be pulled.
    """
    session = pass_session()
    with session.connect() as client:
        messages = client.docker_pull(
            instance_ids, new_only=new_only, detach=detach, progress_timeout=progress_timeout
        )
        if session.json:
            result = _print_json(messages)
        elif sys.stdout.isatty():
            from hostmanager_client.cli.pull_bars import show_bars

            result = show_bars(messages)
        else:
            result = _print_lines(messages)
    if not session.json:
        say(summary(result))
    if result.failed or result.cancelled:
        raise click.exceptions.Exit(1)


def _print_json(messages: Iterable[pb.DockerPullResponse]) -> pb.PullResult:
    from hostmanager_client.words import to_json

    for message in messages:
        print_json(to_json(message), lines=True)
    return message.result


def _print_lines(messages: Iterable[pb.DockerPullResponse]) -> pb.PullResult:
    """A line whenever an image comes to another state."""
    known: dict[str, int] = {}
    for message in messages:
        if message.joined and not known:
            say("following the pull that runs already", err=True)
        for image in message.images:
            if known.get(image.image) != image.state:
                known[image.image] = image.state
                say(image_line(image))
    return message.result


def image_line(image: pb.ImagePull) -> str:
    """`lab/agent:2 (data1, data2): failed: no such image`."""
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.cli.harmless import one_line
    from hostmanager_client.words import pull_word

    users = f" ({', '.join(image.instance_ids)})" if image.instance_ids else ""
    told = (pb.ImagePull.STATE_SKIPPED, pb.ImagePull.STATE_FAILED)
    why = f": {image.message}" if image.message and image.state in told else ""
    return one_line(f"{image.image}{users}: {pull_word(image.state)}{why}")


def summary(result: pb.PullResult) -> str:
    """`3 images: 1 pulled, 2 up to date`."""
    counts = (
        (result.pulled, "pulled"), (result.up_to_date, "up to date"), (result.skipped, "skipped"),
        (result.failed, "failed"), (result.cancelled, "not finished"),
    )  # fmt: skip
    what = ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing to pull"
    return f"{result.images} image{'s' if result.images != 1 else ''}: {what}"
