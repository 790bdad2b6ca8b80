"""The commands of other packages, found by entry point; looked for only when they may be meant.

An entry point of the group `hostmanager.commands` loads to a click command. The server's are known here by
name, so that the help needs not import the server.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from hostmanager_client.cli import PROGRAM
from hostmanager_client.cli.installation import unmet_requirements

GROUP = "hostmanager.commands"

_SHORT = {
    "serve": "Run the daemon on a site config file.",
    "config": "Check a site config file, without a daemon.",
    "systemd": "Have systemd run the daemon.",
    "demo": "Run a site of example agents, to see what this is.",
}


def names() -> list[str]:
    """The names of all there are, those of the server first."""
    found = {point.name for point in entry_points(group=GROUP)}
    return [*(n for n in _SHORT if n in found), *sorted(found - _SHORT.keys())]


def load(name: str) -> click.Command | None:
    """The command, None when there is none of that name. Raises UsageError when it cannot be loaded."""
    points = entry_points(group=GROUP, name=name)
    if not points:
        if name in _SHORT:
            raise click.UsageError(f"{name!r} is a command of the server, which is not installed here.")
        return None
    return _load(next(iter(points)))


def _load(point: EntryPoint) -> click.Command:
    try:
        command = point.load()
    except (ImportError, AttributeError) as error:
        if unmet_requirements(PROGRAM):
            raise  # main() says what is missing
        raise click.UsageError(f"the command {point.name!r} cannot be loaded: {error}") from error
    if not isinstance(command, click.Command):
        raise click.UsageError(f"the command {point.name!r} cannot be loaded: {point.value} is no command")
    return command


def short_help(name: str) -> str:
    """One line on what a command does; empty when it cannot be loaded to be asked."""
    if name in _SHORT:
        return _SHORT[name]
    try:
        command = load(name)
    except click.UsageError:
        return ""
    return command.get_short_help_str() if command is not None else ""
