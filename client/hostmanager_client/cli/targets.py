"""The commands that change targets: `up`, `down`, `restart`, `update`, `reload`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hostmanager_client.cli.change import ALL, restart, update
from hostmanager_client.cli.cli_session import pass_session
from hostmanager_client.cli.options import (
    common_options,
    complete_changes,
    failing_option,
    ids_argument,
    reason_option,
    wait_option,
)


def all_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --all."""
    return click.option("--all", "everything", is_flag=True, help="All instances.")(command)


def parse_changes(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """Parse any number of `ID=up` or `ID=down`; raise BadParameter for other text."""
    pairs = []
    for text in value:
        instance_id, equals, target = text.rpartition("=")
        if not instance_id or not equals or target not in ("up", "down"):
            raise click.BadParameter(f"{text!r} is not of the form ID=up, ID=down, all=up or all=down")
        pairs.append((instance_id, target))
    return tuple(pairs)


def changes_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an argument for any number of ID=TARGET."""
    return click.argument(
        "changes",
        metavar="[ID=up|down]...",
        nargs=-1,
        callback=parse_changes,
        shell_complete=complete_changes,
    )(command)


@click.command("up")
@ids_argument()
@all_option
@failing_option
@click.option(
    "--with-dependencies", is_flag=True, help="Also start the dependencies that are down on purpose."
)
@wait_option
@reason_option
@common_options
def up_command(
    instance_ids: tuple[str, ...],
    *,
    everything: bool,
    failing: bool,
    with_dependencies: bool,
    wait: bool,
    reason: str,
) -> None:
    """Set the target of instances to up.

    \b
      hostmanager up thermo1 --wait      start an instance and wait for it
      hostmanager up 'cam*' class:Disk   start by a pattern of ids, and by class
      hostmanager up --all               start all instances
      hostmanager up heater --reason "valve swapped"
    """
    ids = _named(instance_ids, everything=everything, failing=failing)
    update(
        pass_session(),
        [(i, "up") for i in ids],
        wait=wait,
        with_dependencies=with_dependencies,
        failing=failing,
        reason=reason,
    )


@click.command("down")
@ids_argument()
@all_option
@failing_option
@wait_option
@reason_option
@common_options
def down_command(
    instance_ids: tuple[str, ...], *, everything: bool, failing: bool, wait: bool, reason: str
) -> None:
    """Set the target of instances to down."""
    ids = _named(instance_ids, everything=everything, failing=failing)
    update(pass_session(), [(i, "down") for i in ids], wait=wait, failing=failing, reason=reason)


@click.command("restart")
@ids_argument()
@all_option
@failing_option
@wait_option
@reason_option
@common_options
def restart_command(
    instance_ids: tuple[str, ...], *, everything: bool, failing: bool, wait: bool, reason: str
) -> None:
    """Stop and start instances. Their targets must be up, and stay up.

    --all restarts every instance with target up, and so does a selector with those that it names.

    \b
      hostmanager restart @rack=3      restart by label
      hostmanager restart --failing    restart what is failing
    """
    _named(instance_ids, everything=everything, failing=failing)
    session = pass_session()
    restart(session, instance_ids, everything=everything, failing=failing, wait=wait, reason=reason)


yes_option = click.option(
    "--yes", "-y", is_flag=True, help="Do not ask before a reload stops a running instance."
)


@click.command("update")
@changes_argument
@click.option("--reload", "reload_config", is_flag=True, help="Read the site config first.")
@click.option(
    "--validate-only",
    "--dry-run",
    "validate_only",
    is_flag=True,
    help="Check everything, show the changes, change nothing.",
)
@failing_option
@yes_option
@wait_option
@reason_option
@common_options
def update_command(
    changes: tuple[tuple[str, str], ...],
    *,
    reload_config: bool,
    validate_only: bool,
    failing: bool,
    yes: bool,
    wait: bool,
    reason: str,
) -> None:
    """Change several targets in order, all or none.

    \b
      hostmanager update all=up data1=down          bring all instances up except data1
      hostmanager update 'cam*=down' @rack=3=up     by a pattern of ids, and by label
    """
    if not changes and not reload_config:
        raise click.UsageError("Nothing to change: name changes such as data1=up, or use --reload.")
    if validate_only and wait:
        raise click.UsageError("--wait and --validate-only exclude each other.")
    update(
        pass_session(),
        changes,
        wait=wait,
        reload_config=reload_config,
        validate_only=validate_only,
        failing=failing,
        ask=reload_config and not yes,
        reason=reason,
    )


@click.command("reload")
@click.option("--dry-run", is_flag=True, help="Show what a reload would change, and change nothing.")
@yes_option
@wait_option
@reason_option
@common_options
def reload_command(*, dry_run: bool, yes: bool, wait: bool, reason: str) -> None:
    """Read the site config again, and show the changes.

    New instances start with their configured target, known ones keep their target, removed ones are brought
    down. An instance with an outdated command or environment shows "restart required". On a terminal the
    command asks before the reload stops a running instance, unless --yes.
    """
    if dry_run and wait:
        raise click.UsageError("--wait and --dry-run exclude each other.")
    update(
        pass_session(),
        (),
        wait=wait,
        reload_config=True,
        validate_only=dry_run,
        ask=not yes,
        reason=reason,
    )


def _named(instance_ids: tuple[str, ...], *, everything: bool, failing: bool) -> tuple[str, ...]:
    if (instance_ids and everything) or not (instance_ids or everything or failing):
        raise click.UsageError("Name one or more instances, or use --all, not both.")
    return instance_ids or (ALL,)
