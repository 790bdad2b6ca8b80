"""Options and arguments that several commands share."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hostmanager_client.cli.cli_session import current_session
from hostmanager_client.errors import HostManagerError
from hostmanager_client.seconds import LONGEST_TIMEOUT

if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

F = TypeVar("F", bound=Callable[..., Any])

COMPLETION_TIMEOUT = 3.0  # s; three round trips of a slow link, while the shell waits


class SecondsRange(click.FloatRange):
    """A number of seconds in a range; refuses NaN, unlike click.FloatRange."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fail for NaN and for numbers out of range."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return number


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Store an option in the session; the option may precede or follow the name of the command."""
    if value is not None and value is not False:
        setattr(current_session(ctx), str(param.name), value)


def common_options(command: F) -> F:
    """Add --address, --json and --timeout, which may precede or follow the name of the command."""
    for option in (
        click.option(
            "--timeout",
            type=SecondsRange(0, LONGEST_TIMEOUT, min_open=True),
            metavar="SECONDS",
            callback=_remember,
            expose_value=False,
            help="Time limit for the daemon, or with --wait for the target.",
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
    """Add --wait."""
    return click.option("--wait", "-w", is_flag=True, help="Wait for the target; exit 1 if not reached.")(
        command
    )


def reason_option(command: F) -> F:
    """Add --reason."""
    return click.option(
        "--reason",
        metavar="TEXT",
        default="",
        help="Why, in your words; kept and shown.",
    )(command)


def failing_option(command: F) -> F:
    """Add --failing."""
    return click.option("--failing", is_flag=True, help="Only instances that are failing.")(command)


def complete_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the instance ids with this prefix; none, without an error, if no daemon answers."""
    try:
        with current_session(ctx).connect(timeout=COMPLETION_TIMEOUT) as client:
            children = client.get_status().child_states
    except HostManagerError:
        return []
    return safe_words((child.instance_id for child in children), incomplete)


def complete_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ids, `class:NAME`, `label:NAME` and `@NAME` with this prefix."""
    kinds = [kind for kind in ("class:", "label:", "@") if _overlaps(kind, incomplete)]
    if not kinds:
        return complete_ids(ctx, param, incomplete)
    try:
        with current_session(ctx).connect(timeout=COMPLETION_TIMEOUT) as client:
            instances = client.list_instances().instances
    except HostManagerError:
        return []
    words = [instance.instance_id for instance in instances]
    for kind in kinds:
        words += sorted({f"{kind}{text}" for instance in instances for text in _texts(instance, kind)})
    return safe_words(words, incomplete)


def _overlaps(kind: str, incomplete: str) -> bool:
    return bool(incomplete) and (kind.startswith(incomplete) or incomplete.startswith(kind))


def _texts(instance: pb.ManagedInstance, kind: str) -> Iterable[str]:
    """Yield what may follow `class:`, or `label:` and `@`, for an instance."""
    if kind == "class:":
        yield instance.full_name.removesuffix(f":{instance.instance_id}")
        return
    for name, value in instance.labels.items():
        yield name
        if value:
            yield f"{name}={value}"


def safe_words(words: Iterable[str], incomplete: str) -> list[str]:
    """Return the words with this prefix that are safe in a shell.

    A shell inserts completions unquoted, so words that need quotes are left out.
    """
    return [word for word in words if word.startswith(incomplete) and shlex.quote(word) == word]


def complete_changes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return ID=up and ID=down for the ids with this prefix."""
    instance_id, equals, target = incomplete.rpartition("=")
    if not equals:
        instance_id, target = target, ""
    if equals and not instance_id.startswith(("@", "label:")):
        return [f"{instance_id}={word}" for word in ("up", "down") if word.startswith(target)]
    ids = [*(["all"] if "all".startswith(instance_id) else []), *complete_names(ctx, param, instance_id)]
    return [f"{each}={word}" for each in ids for word in ("up", "down")]


def ids_argument(*, required: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds an argument for any number of instance ids and selectors."""
    return click.argument(
        "instance_ids", metavar="[ID]...", nargs=-1, required=required, shell_complete=complete_names
    )


def id_argument(command: F) -> F:
    """Add an argument for one instance id."""
    return click.argument("instance_id", metavar="ID", shell_complete=complete_ids)(command)
