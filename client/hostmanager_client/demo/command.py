"""The command `hostmanager demo`."""

from __future__ import annotations

import signal
import sys

import click

from hostmanager_client.demo.lab import DemoError, Lab
from hostmanager_client.demo.live import show_live
from hostmanager_client.demo.signals import Ended, ending_signals
from hostmanager_client.demo.tour import take_tour
from hostmanager_client.errors import HostManagerError


@click.command("demo")
@click.option("--tour/--live", default=None, help="The tour, or the live table; default: as fits the output.")
def demo_command(tour: bool | None) -> None:
    """Show a daemon at work with a small lab in a temporary directory.

    On a terminal: a live table, until Ctrl-C. Elsewhere: a tour of half a minute (status, a kill, the recovery,
    an update, an agent that ignores INT, a reload). Either way everything is brought down in the end and
    nothing is left behind; the exit code is 0 when all of it went as it should, 1 when not.
    """
    if tour is None:
        tour = not (sys.stdout.isatty() and sys.stdin.isatty())
    lab = Lab()
    with ending_signals(lab):
        try:
            ended_by = _show(lab, tour)
        finally:
            _close(lab)
    # A shell that runs the demo in a script learns what ended it; Ctrl-C is how the live table is left.
    if ended_by not in (0, signal.SIGINT) or (ended_by and tour):
        sys.exit(128 + ended_by)


def _show(lab: Lab, tour: bool) -> int:
    """Show the demo; the signal that ended it, 0 when it came to its end."""
    try:
        click.echo("starting a daemon with the example site ...")
        lab.open()
        click.echo(f"it serves on {lab.address}")
        if tour:
            take_tour(lab)
        else:
            show_live(lab)
    except Ended as ended:
        return ended.signum
    except HostManagerError as error:
        raise DemoError(str(error)) from error
    return 0


def _close(lab: Lab) -> None:
    count = len(lab.mark.pids())
    click.echo(f"\nbringing everything down ({count} processes) ...")
    lab.close()
    click.echo("everything is down; no process and no file is left behind")
