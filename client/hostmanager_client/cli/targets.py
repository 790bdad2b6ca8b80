"""The commands that change targets: `up`, `down`, `restart`, `update`, `reload`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click

from hostmanager_client.cli.cli_session import CliSession, pass_session
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.options import (
    common_options,
    complete_changes,
    ids_argument,
    wait_option,
)
from hostmanager_client.cli.output import print_json, print_line

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

    from hostmanager_client.calls import Change, Target
    from hostmanager_client.sync import HostManagerClient
    from hostmanager_client.waiting import WaitProgress

ALL = "all"  # the word of the contract, and of OCS


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


def to_changes(pairs: Iterable[tuple[str, str]]) -> list[Change]:
    """Return the changes of the client for pairs of id and word."""
    from hostmanager_client.calls import DOWN, UP

    return [(instance_id, UP if word == "up" else DOWN) for instance_id, word in pairs]


@click.command("up")
@ids_argument()
@all_option
@click.option(
    "--with-dependencies", is_flag=True, help="Also start the dependencies that are down on purpose."
)
@wait_option
@common_options
def up_command(
    instance_ids: tuple[str, ...], *, everything: bool, with_dependencies: bool, wait: bool
) -> None:
    """Set the target of instances to up.

    \b
      hostmanager up thermo1 --wait    start an instance and wait for it
      hostmanager up --all             start all instances
    """
    ids = _named(instance_ids, everything=everything)
    _update(pass_session(), [(i, "up") for i in ids], wait=wait, with_dependencies=with_dependencies)


@click.command("down")
@ids_argument()
@all_option
@wait_option
@common_options
def down_command(instance_ids: tuple[str, ...], *, everything: bool, wait: bool) -> None:
    """Set the target of instances to down."""
    ids = _named(instance_ids, everything=everything)
    _update(pass_session(), [(i, "down") for i in ids], wait=wait)


@click.command("restart")
@ids_argument()
@all_option
@wait_option
@common_options
def restart_command(instance_ids: tuple[str, ...], *, everything: bool, wait: bool) -> None:
    """Stop and start instances. Their targets must be up, and stay up.

    --all restarts every instance with target up.
    """
    _named(instance_ids, everything=everything)
    session = pass_session()
    with session.connect(timeout=_call_timeout(session, wait=wait)) as client:
        answer = client.restart(instance_ids, all_up=everything)
        if not session.json:
            _print_all(f"{one_line(g.instance_id)}: restarting" for g in answer.generations)
        progress = _wait(session, client, answer, {}) if wait else None
    _finish(session, answer, progress)


@click.command("update")
@changes_argument
@click.option("--reload", "reload_config", is_flag=True, help="Read the site config first.")
@click.option("--validate-only", is_flag=True, help="Check everything, change nothing.")
@wait_option
@common_options
def update_command(
    changes: tuple[tuple[str, str], ...], *, reload_config: bool, validate_only: bool, wait: bool
) -> None:
    """Change several targets in order, all or none.

    \b
      hostmanager update all=up data1=down    bring all instances up except data1
    """
    if not changes and not reload_config:
        raise click.UsageError("Nothing to change: name changes such as data1=up, or use --reload.")
    if validate_only and wait:
        raise click.UsageError("--wait and --validate-only exclude each other.")
    _update(pass_session(), changes, wait=wait, reload_config=reload_config, validate_only=validate_only)


@click.command("reload")
@wait_option
@common_options
def reload_command(*, wait: bool) -> None:
    """Read the site config again.

    New instances start with their configured target, known ones keep their target, removed ones are brought
    down. An instance with an outdated command or environment shows "restart required".
    """
    _update(pass_session(), (), wait=wait, reload_config=True)


def _named(instance_ids: tuple[str, ...], *, everything: bool) -> tuple[str, ...]:
    if bool(instance_ids) == everything:
        raise click.UsageError("Name one or more instances, or use --all, not both.")
    return (ALL,) if everything else instance_ids


def _call_timeout(session: CliSession, *, wait: bool) -> float | None:
    """Return the timeout of a call; with --wait, --timeout limits the wait instead."""
    from hostmanager_client.calls import PLAIN_TIMEOUT

    return PLAIN_TIMEOUT if wait else session.timeout


def _update(
    session: CliSession,
    pairs: Iterable[tuple[str, str]],
    *,
    wait: bool,
    reload_config: bool = False,
    validate_only: bool = False,
    with_dependencies: bool = False,
) -> None:
    with session.connect(timeout=_call_timeout(session, wait=wait)) as client:
        changes = to_changes(pairs)
        answer = client.update(
            changes,
            reload_config=reload_config,
            validate_only=validate_only,
            with_dependencies=with_dependencies,
        )
        ids = [g.instance_id for g in answer.generations]
        targets = last_targets(changes, ids)
        if with_dependencies:
            from hostmanager_client.calls import UP

            targets |= dict.fromkeys((i for i in ids if i not in targets), UP)
        if not session.json:
            _warn(answer)
            _print_all(_sentences(targets, reload_config=reload_config, validate_only=validate_only))
        progress = None
        if wait and reload_config:
            from hostmanager_client.cli.wait_progress import follow_all

            progress = follow_all(session, client)
        elif wait:
            progress = _wait(session, client, answer, targets)
        elif not session.json and not validate_only:
            _print_all(_waits(client, targets))
    _finish(session, answer, progress)


def last_targets(changes: Iterable[Change], instance_ids: Iterable[str]) -> dict[str, Target]:
    """Return the final target of each instance; later changes override earlier ones."""
    ids = list(instance_ids)
    targets: dict[str, Target] = {}
    for instance_id, target in changes:
        targets |= dict.fromkeys(ids if instance_id == ALL else [instance_id], target)
    return targets


def _sentences(targets: Mapping[str, Target], *, reload_config: bool, validate_only: bool) -> Iterable[str]:
    from hostmanager_client.words import target_word

    if reload_config:
        yield "site config checked" if validate_only else "site config read"
    would = "would be " if validate_only else ""
    for instance_id, target in targets.items():
        yield f"{one_line(instance_id)}: target {would}{target_word(target)}"


def _waits(client: HostManagerClient, targets: Mapping[str, Target]) -> Iterable[str]:
    """Yield a line for each named instance whose start waits for other instances."""
    from hostmanager_client.calls import UP

    ups = [instance_id for instance_id, target in targets.items() if target == UP]
    if not ups:
        return
    for instance in client.list_instances(ups).instances:
        if instance.reason in ("WaitingForDependencies", "DependencyDown"):
            hint = "; --with-dependencies starts them, too" if instance.reason == "DependencyDown" else ""
            yield f"{one_line(instance.instance_id)}: {one_line(instance.message)}{hint}"


def _wait(
    session: CliSession,
    client: HostManagerClient,
    answer: pb.UpdateResponse | pb.RestartResponse,
    targets: Mapping[str, Target],
) -> WaitProgress:
    from hostmanager_client.cli.wait_progress import follow

    generations = {g.instance_id: g.generation for g in answer.generations}
    return follow(session, client, generations, targets, answer.epoch)


def _warn(answer: pb.UpdateResponse) -> None:
    if answer.config_warnings:
        from hostmanager_client.cli.view import problem_line

        for problem in answer.config_warnings:
            print_line(problem_line(problem), err=True)


def _print_all(lines: Iterable[str]) -> None:
    for line in lines:
        print_line(line)


def _finish(
    session: CliSession, answer: pb.UpdateResponse | pb.RestartResponse, progress: WaitProgress | None
) -> None:
    """Print the end of the output, after success."""
    if session.json:
        from hostmanager_client.cli.wait_progress import wait_json
        from hostmanager_client.words import to_json

        print_json(to_json(answer) | ({"wait": wait_json(progress)} if progress is not None else {}))
    elif progress is not None:
        count = len(progress.reached)
        print_line(f"{count} {'instance' if count == 1 else 'instances'} reached the target")
