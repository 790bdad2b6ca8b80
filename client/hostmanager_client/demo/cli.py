"""The command `hostmanager demo`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hostmanager_client.demo.lab import DemoLab


@click.command("demo")
@click.option(
    "--tour/--live", default=None, help="Show the tour, or the live table. Default: the table on a terminal."
)
def demo_command(*, tour: bool | None) -> None:
    """Run a daemon with a small lab in a temporary directory.

    The lab includes compose services if the host has Docker Engine, Docker Compose and a static busybox for
    the image; otherwise the demo names the missing part. The demo downloads nothing.

    On a terminal, the demo shows a live table until Ctrl-C. Without a terminal, it takes a short tour:
    status, a kill and the recovery, an update, an agent that ignores INT, a reload; a killed container,
    another image, an orphan. At the end the demo removes all processes, containers and files. Exits 0 if
    every step succeeded, else 1.
    """
    if tour is None:
        tour = not (sys.stdin.isatty() and sys.stdout.isatty())
    environment = dict(os.environ)
    # gRPC reads these variables at import. The processes of the lab do not get them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from hostmanager_client.demo.lab import DemoLab
    from hostmanager_client.demo.signals import ending_signals

    lab = DemoLab(environment)
    with ending_signals(lab):
        try:
            ended_by = _show(lab, tour=tour)
        except BaseException:
            try:
                _close(lab)
            except click.ClickException as also:
                also.show()  # the first error is raised
            raise
        _close(lab)
    # Ctrl-C is the normal end of the live table; every other signal interrupts the demo.
    if ended_by and (tour or ended_by != signal.SIGINT):
        sys.exit(128 + ended_by)


def _show(lab: DemoLab, *, tour: bool) -> int:
    """Show the demo; return the signal that ended the demo, or 0."""
    from hostmanager_client.demo.signals import DemoEnded

    try:
        click.echo("starting a daemon with the example site ...")
        lab.open()
        click.echo(f"the daemon listens on {lab.address}; its files are in the same directory")
        if lab.why_no_services:
            click.echo(f"the lab has no compose services: {lab.why_no_services}")
        if tour:
            from hostmanager_client.demo.tour import take_tour

            take_tour(lab)
        else:
            from hostmanager_client.demo.live_table import show_live

            show_live(lab)
    except DemoEnded as ended:
        return ended.signum
    return 0


def _close(lab: DemoLab) -> None:
    lab.closing = True
    with suppress(OSError):  # the terminal may be closed, and the lab must still close
        click.echo("\nbringing everything down ...")
    lab.close()
    what = "process, no container, no image" if lab.services else "process"
    with suppress(OSError):
        click.echo(f"everything is down; no {what} and no file remains")
