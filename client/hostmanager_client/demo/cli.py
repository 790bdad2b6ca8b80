"""The command `hostmanager demo`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hostmanager_client.demo.lab import Lab


@click.command("demo")
@click.option(
    "--tour/--live", default=None, help="The tour, or the live table. Default: the table on a terminal."
)
def demo_command(*, tour: bool | None) -> None:
    """Show a daemon at work with a small lab in a temporary directory.

    With a Docker Engine, Docker Compose and a static busybox, the lab has compose services, too. Their image
    contains the busybox: nothing is downloaded. The demo names a missing part.

    On a terminal: a live table, until Ctrl-C. Elsewhere: a short tour (status, a kill and the recovery, an
    update, an agent that ignores INT, a reload; a killed container, another image, an orphan). In both
    cases everything goes down and nothing is left behind; the exit code is 0 on success, else 1.
    """
    if tour is None:
        tour = not (sys.stdin.isatty() and sys.stdout.isatty())
    environment = dict(os.environ)
    # gRPC reads these when it is imported, which is only now. They are for this process, not for the lab's.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from hostmanager_client.demo.lab import Lab
    from hostmanager_client.demo.signals import ending_signals

    lab = Lab(environment)
    with ending_signals(lab):
        try:
            ended_by = _show(lab, tour=tour)
        except BaseException:
            try:
                _close(lab)
            except click.ClickException as also:
                also.show()  # the first failure is the one to raise
            raise
        _close(lab)
    # Ctrl-C is how the live table is left; everything else was not to end the demo.
    if ended_by and (tour or ended_by != signal.SIGINT):
        sys.exit(128 + ended_by)


def _show(lab: Lab, *, tour: bool) -> int:
    """Show the demo; the signal that ended it, 0 when it came to its end."""
    from hostmanager_client.demo.signals import DemoEnded

    try:
        click.echo("starting a daemon with the example site ...")
        lab.open()
        click.echo(f"it listens on {lab.address}, and has its files beside that")
        if lab.why_no_services:
            click.echo(f"no compose services are in it: {lab.why_no_services}")
        if tour:
            from hostmanager_client.demo.tour import take_tour

            take_tour(lab)
        else:
            from hostmanager_client.demo.live_table import show_live

            show_live(lab)
    except DemoEnded as ended:
        return ended.signum
    return 0


def _close(lab: Lab) -> None:
    lab.closing = True
    with suppress(OSError):  # the terminal may be gone, which is no reason to leave anything behind
        click.echo("\nbringing everything down ...")
    lab.close()
    what = "process, no container, no image" if lab.services else "process"
    with suppress(OSError):
        click.echo(f"everything is down; no {what} and no file is left behind")
