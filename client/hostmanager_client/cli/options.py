"""The options and arguments that several commands share."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from hostmanager_client.cli.session import current_session
from hostmanager_client.errors import HostManagerError
from hostmanager_client.seconds import LONGEST_TIMEOUT

F = TypeVar("F", bound=Callable[..., Any])

COMPLETION_TIMEOUT = 3.0  # s; three round trips of a slow link, and yet the shell waits for this


class SecondsRange(click.FloatRange):
    """A number of seconds in a range; unlike click's own range it refuses NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return number


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep the option in the session, whichever side of the command's name it stood."""
    if value is not None and value is not False:
        setattr(current_session(ctx), str(param.name), value)


def common_options(command: F) -> F:
    """--address, --json and --timeout: the same before and after the command's name."""
    for option in (
        click.option(
            "--timeout",
            type=SecondsRange(0, LONGEST_TIMEOUT, min_open=True),
            metavar="SECONDS",
            callback=_remember,
            expose_value=False,
            help="How long to wait for the daemon, or with --wait for the target.",
        ),
        click.option("--json", is_flag=True, callback=_remember, expose_value=False, help="Print JSON."),
        click.option(
            "--address",
            "-a",
            metavar="ADDRESS",
            callback=_remember,
            expose_value=False,
            help="Where the daemon listens: unix:PATH, a path with a '/', or HOST:PORT. "
            "Default: $HOSTMANAGER_ADDRESS, else this user's socket.",
        ),
    ):
        command = option(command)
    return command


def wait_option(command: F) -> F:
    """--wait."""
    return click.option(
        "--wait", "-w", is_flag=True, help="Follow until the target is reached; exit 1 on failure."
    )(command)


def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The instance ids that begin so. Quiet, and soon, when there is no daemon to ask."""
    try:
        with current_session(ctx).connect(timeout=COMPLETION_TIMEOUT) as client:
            children = client.get_status().child_states
    except HostManagerError:
        return []
    return offered((child.instance_id for child in children), incomplete)


def offered(words: Iterable[str], incomplete: str) -> list[str]:
    """Choose the words that begin so.

    A shell takes them as they are: a word that it would take for a command or for several is left out.
    """
    return [word for word in words if word.startswith(incomplete) and shlex.quote(word) == word]


def complete_changes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """ID=up and ID=down for the ids that begin so."""
    who, equals, target = incomplete.partition("=")
    if equals:
        return [f"{who}={word}" for word in ("up", "down") if word.startswith(target)]
    ids = [*(["all"] if "all".startswith(who) else []), *complete_ids(ctx, param, who)]
    return [f"{instance_id}={word}" for instance_id in ids for word in ("up", "down")]


def ids_argument(*, required: bool = False) -> Callable[[F], F]:
    """Any number of instance ids."""
    return click.argument(
        "instance_ids", metavar="[ID]...", nargs=-1, required=required, shell_complete=complete_ids
    )


def id_argument(command: F) -> F:
    """One instance id."""
    return click.argument("instance_id", metavar="ID", shell_complete=complete_ids)(command)
