"""The changes of a reload: lines of text, and the question before a run is stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import click
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_client.cli import FAILED
from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.output import print_line, print_lines
from hostmanager_client.cli.plain import displayable
from hostmanager_client.cli.text import Cell, duration
from hostmanager_client.words import target_word, to_seconds

HIDDEN = "***"  # a value that may be a secret
_SIGNS = {
    pb.InstanceChange.KIND_ADDED: ("+", "green"),
    pb.InstanceChange.KIND_REMOVED: ("-", "red"),
}


def heading(answer: pb.UpdateResponse, *, validate_only: bool) -> str:
    """Return the first line: how many instances differ."""
    read = "site config checked" if validate_only else "site config read"
    total = len(answer.changes) + answer.more_changes
    if not total:
        return f"{read}: no instance {'would change' if validate_only else 'changed'}"
    text = f"{read}: {total} {'instance' if total == 1 else 'instances'}"
    text += " would change" if validate_only else " changed"
    if not answer.stopping:
        return text
    return f"{text}, {answer.stopping} {'would be' if validate_only else 'of them'} stopped"


def change_lines(answer: pb.UpdateResponse, *, validate_only: bool) -> Iterator[str]:
    """Yield a line for each change, and a line for the changes that the daemon did not list."""
    now = to_seconds(answer.time)
    for change in answer.changes:
        sign, color = _SIGNS.get(change.kind, ("~", "yellow"))
        parts = "; ".join(_parts(change, now, validate_only=validate_only))
        yield f"{Cell(sign, color).styled()} {one_line(change.instance_id)}: {parts}"
    if answer.more_changes:
        yield f"and {answer.more_changes} more"


def confirm(answer: pb.UpdateResponse) -> None:
    """Show the changes that a reload would make, and ask; end with exit code 1 unless the user agrees."""
    print_lines([heading(answer, validate_only=True), *change_lines(answer, validate_only=True)], err=True)
    count = answer.stopping
    what = "1 instance that runs" if count == 1 else f"{count} instances that run"
    if not click.confirm(f"Reload, and stop {what}?", err=True):
        print_line("nothing was changed", err=True)
        raise click.exceptions.Exit(FAILED)


def may_ask() -> bool:
    """Return whether a user at a terminal can read a question and answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _parts(change: pb.InstanceChange, now: float, *, validate_only: bool) -> Iterable[str]:
    text = _first(change)
    if change.stops:
        text += f", {_stop(change, now, validate_only=validate_only)}"
    elif change.kind == pb.InstanceChange.KIND_REMOVED and change.HasField("start_time"):
        text += f" ({_up(change, now)})"
    yield text
    if change.restart_required:
        yield "restart required"
    if change.message:
        yield one_line(change.message)


def _first(change: pb.InstanceChange) -> str:
    kinds = pb.InstanceChange
    keys = ", ".join(
        [*map(_key, change.keys), *([f"and {change.more_keys} more"] if change.more_keys else [])]
    )
    if change.kind == kinds.KIND_ADDED:
        return f"new, {one_line(change.agent_class)}, target {target_word(change.target_state)}"
    if change.kind == kinds.KIND_REMOVED:
        return "gone"
    word = "replaced" if change.kind == kinds.KIND_REPLACED else "changed"
    text = f"{word}: {keys}" if keys else word
    if change.kind == kinds.KIND_REPLACED and not change.stops:
        text += f", target {target_word(change.target_state)}"
    return text


def _stop(change: pb.InstanceChange, now: float, *, validate_only: bool) -> str:
    again = change.kind == pb.InstanceChange.KIND_REPLACED and change.target_state == pb.TARGET_STATE_UP
    if validate_only:
        text = "WILL BE STOPPED" + (" AND STARTED AGAIN" if again else "")
    else:
        text = "being stopped" + (" and started again" if again else "")
    if change.HasField("start_time"):
        return f"{text} ({_up(change, now)})"
    return f"{text} if it runs"


def _up(change: pb.InstanceChange, now: float) -> str:
    return f"up {duration(now - to_seconds(change.start_time))}"


def _key(change: pb.KeyChange) -> str:
    key, before, after = (one_line(text) for text in (change.key, change.before, change.after))
    if before and after:
        return f"{key} changed" if before == after else f"{key} {before} {displayable('→')} {after}"
    word = "added" if after else "removed"
    value = after or before
    return f"{key} {word}" if value == HIDDEN else f"{key} {word}: {value}"
