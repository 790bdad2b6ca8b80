"""Commands of other packages, found by entry point.

Each entry point of the group `hostmanager.commands` loads a click command. The short help of the server
commands stands here, so that `hostmanager --help` does not import the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from hostmanager.distribution import entry_point

from hostmanager_client.cli import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

GROUP = "hostmanager.commands"

_SHORT = {
    "init": "Write a first site config file.",
    "serve": "Run the daemon on a site config file.",
    "config": "Check a site config file, without a daemon.",
    "systemd": "Run the daemon under systemd.",
    "demo": "Run a demo site with example agents.",
}


def names() -> list[str]:
    """Return the names of all commands, those of the server first."""
    found = {point.name for point in _entry_points()}
    return [*(n for n in _SHORT if n in found), *sorted(found - _SHORT.keys())]


def load(name: str) -> click.Command | None:
    """Return a command, or None for an unknown name; raise UsageError if the import fails."""
    value = entry_point(GROUP, name) if name in _SHORT else ""
    value = value or next((point.value for point in _entry_points() if point.name == name), "")
    if not value:
        if name in _SHORT:
            raise click.UsageError(f"cannot run {name!r}: the server is not installed")
        return None
    return _load(name, value)


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _load(name: str, value: str) -> click.Command:
    from pkgutil import resolve_name

    try:
        command = resolve_name(value)
    except (ImportError, AttributeError) as error:
        from hostmanager_client.cli.installation import unmet_requirements

        if unmet_requirements(PROGRAM):
            raise  # main() prints the missing packages
        raise click.UsageError(f"cannot load the command {name!r}: {error}") from error
    if not isinstance(command, click.Command):
        raise click.UsageError(f"cannot load the command {name!r}: {value} is not a command")
    return command


def short_help(name: str) -> str:
    """Return the short help of a command; empty if the import fails."""
    if name in _SHORT:
        return _SHORT[name]
    try:
        command = load(name)
    except click.UsageError:
        return ""
    return command.get_short_help_str() if command is not None else ""
