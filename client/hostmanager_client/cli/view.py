"""Texts about the manager, its problems, and the state of an instance."""

from __future__ import annotations

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.origins import reason_words
from hostmanager_client.cli.text import Cell, duration
from hostmanager_client.last_output import explains, last_line
from hostmanager_client.words import (
    manager_word,
    next_action_word,
    severity_word,
    to_seconds,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from hostmanager.v1 import host_manager_pb2 as pb

_SEVERITY_COLORS = {"warning": "yellow", "error": "red"}
# A failure t seconds ago, within the window, costs this amount divided by t (the measure of OCS).
_STABILITY_WINDOW = 120.0
_STABILITY_COST = 5.0
_LAST_LINE = 60  # columns of the last output in a message


def manager_line(manager: pb.ManagerStatus, now: float, address: str) -> str:
    """Return the line of the manager."""
    state = manager_word(manager.state)
    word = Cell(state, "green" if state == "running" else "yellow").styled()
    parts = [f"manager {word}"]
    if manager.host:
        parts.append(f"host {one_line(manager.host)}")
    parts.append(f"hostmanager {one_line(manager.version)}")
    if manager.pid:
        parts.append(f"pid {manager.pid}")
    if manager.HasField("start_time"):
        parts.append(f"up {duration(now - to_seconds(manager.start_time))}")
    return ", ".join([*parts, address])


def problem_lines(manager: pb.ManagerStatus) -> list[str]:
    """Return a line for each problem, for orphaned containers and for images to pull."""
    lines = [f"{Cell('daemon error', 'red').styled()}: {one_line(problem)}" for problem in manager.problems]
    for name in sorted(manager.config_parse_status):
        status = manager.config_parse_status[name]
        if status.problems:
            lines += [problem_line(problem) for problem in status.problems]
        elif not status.success:
            lines.append(f"{Cell('config error', 'red').styled()}: {one_line(status.message)}")
    if manager.orphans:
        names = ", ".join(sorted(orphan.service for orphan in manager.orphans.values()))
        lines.append(f"orphaned containers: {one_line(names)}")
    if manager.new_tags:
        wanted_by: dict[str, list[str]] = {}
        for instance_id, tag in sorted(manager.new_tags.items()):
            wanted_by.setdefault(tag, []).append(instance_id)
        tags = ", ".join(f"{tag} (for {', '.join(ids)})" for tag, ids in sorted(wanted_by.items()))
        lines.append(f"images to pull: {one_line(tags)}")
    return lines


def problem_line(problem: pb.ConfigProblem) -> str:
    """Return a line such as `config warning: site.yaml:3:5: ...`."""
    word = severity_word(problem.severity)
    severity = Cell(f"config {word}", _SEVERITY_COLORS.get(word, ""))
    place = problem.file
    if problem.line:
        place += f":{problem.line}"
        if problem.column:
            place += f":{problem.column}"
    return f"{severity.styled()}: {one_line(place + ': ' if place else '')}{one_line(problem.message)}"


def pid_of(instance: pb.ManagedInstance) -> int:
    """Return the pid of the process, or of the main process of a container; 0 if none runs."""
    match instance.WhichOneof("runtime"):
        case "process":
            return instance.process.pid
        case "compose_service":
            return instance.compose_service.pid
    return 0


def stability(instance: pb.ManagedInstance, now: float) -> float:
    """Return the stability at `now`, 0 to 1, computed from the failure times."""
    ages = (max(now - to_seconds(t), 1e-3) for t in instance.fail_times)
    cost = sum(_STABILITY_COST / age for age in ages if age < _STABILITY_WINDOW)
    return max(0.0, 1.0 - cost)


def describe(instance: pb.ManagedInstance, now: float) -> str:
    """Return the reason of the state, with times relative to `now`."""
    return "; ".join(part for part in _descriptions(instance, now) if part)


def _descriptions(instance: pb.ManagedInstance, now: float) -> Iterable[str]:
    remaining = to_seconds(instance.at) - now if instance.HasField("at") else None
    ended = exit_words(instance.last_exit, now) if instance.HasField("last_exit") else ""
    said = f': "{one_line(last_line(instance.last_exit, _LAST_LINE))}"' if explains(instance) else ""
    match next_action_word(instance.next_action):
        case "start_at":
            # The last exit with its time replaces that part of the message; a failed start keeps its message.
            what, _, _ = instance.message.partition("; ")
            yield (ended if ended and what.startswith("last exit") else one_line(what)) + said
            when = f"in {duration(remaining)}" if remaining is not None else "soon"
            yield f"restarting {when} (attempt {instance.consecutive_failures + 1})"
            yield _engine_words(instance)
        case "up":
            yield one_line(instance.message) if instance.message != "running" else ""
        case "down":
            what, _, rest = instance.message.partition("; ")
            by_exit = bool(ended) and (not what or what.startswith("last exit"))
            yield f"last exit: {ended}{said}" if by_exit else one_line(what)
            yield one_line(rest)
            yield _engine_words(instance) if ended else ""
        case "wait_start":
            young = instance.message.startswith("started; up after") and remaining is not None
            yield "started" if young else one_line(instance.message)
            yield f"{'up' if young else 'gives up'} in {duration(remaining)}" if remaining is not None else ""
        case "wait_dead":
            yield one_line(instance.message)
            follows = "tries again" if instance.reason == "StopFailed" else "a stronger signal"
            yield f"{follows} in {duration(remaining)}" if remaining is not None else ""
        case _:
            yield one_line(instance.message)
    if instance.HasField("hold") and instance.reason != "Held":
        yield one_line(hold_words(instance.hold))
    yield reason_words(instance)
    if instance.restart_required:
        yield "restart required"
    if instance.retired:
        yield "retired"


def hold_words(hold: pb.InstanceHold) -> str:
    """Return the end and the reason of a hold."""
    from hostmanager_client.words import to_datetime

    until = f"until {to_datetime(hold.end_time):%H:%M} UTC" if hold.HasField("end_time") else "until released"
    return f"held {until}" + (f" ({hold.reason})" if hold.reason else "")


def _engine_words(instance: pb.ManagedInstance) -> str:
    """Return whether the engine's own restart policy is about to restart the container."""
    restarting = instance.compose_service.status == "restarting"
    return "the engine restarts the container" if restarting else ""


def _signal_notes(last: pb.Exit) -> str:
    notes = ["out of memory"] if last.out_of_memory else []
    notes += [f"limit '{last.limit}' reached"] if last.limit else []
    notes += ["core dumped"] if last.core_dumped else []
    return f" ({', '.join(notes)})" if notes else ""


def exit_words(last: pb.Exit, now: float) -> str:
    """Return the exit status and its age: `code 3, 2.0 s ago`."""
    match last.WhichOneof("status"):
        case "code":
            how = f"code {last.code}{' (out of memory)' if last.out_of_memory else ''}"
        case "signal":
            how = f"signal {last.signal}{_signal_notes(last)}"
        case _:
            how = "status unknown"
    return f"{how}, {duration(now - to_seconds(last.time))} ago"
