"""Conversion between the values of the core and protobuf messages.

The modules next to this module convert instances (convert_instance), values of the Docker Engine
(convert_docker), and the messages of WatchStatus (convert_watch).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.values import dataclass

from hostmanager_server.core.event_log import EntryKind, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus, ParseStatus, Problem
from hostmanager_server.core.model import Exit
from hostmanager_server.core.origin import Origin, OriginKind
from hostmanager_server.core.plan import ALL, TargetChange, no_instance
from hostmanager_server.core.signals import signal_name
from hostmanager_server.core.spec import Target
from hostmanager_server.rpc import convert_docker
from hostmanager_server.rpc.errors import FieldViolation, invalid_entries
from hostmanager_server.rpc.ports import Line
from hostmanager_server.state.store import PublishedEntry

MANAGER_STATE = {
    ManagerState.RUNNING: pb.MANAGER_STATE_RUNNING,
    ManagerState.STOPPING: pb.MANAGER_STATE_STOPPING,
    ManagerState.STOPPED: pb.MANAGER_STATE_STOPPED,
}
EVENT_KIND = {
    EntryKind.DAEMON: pb.EVENT_KIND_DAEMON,
    EntryKind.MANAGER: pb.EVENT_KIND_MANAGER,
    EntryKind.CONFIG: pb.EVENT_KIND_CONFIG,
    EntryKind.REQUEST: pb.EVENT_KIND_REQUEST,
    EntryKind.INSTANCE: pb.EVENT_KIND_INSTANCE,
    EntryKind.LAUNCH: pb.EVENT_KIND_LAUNCH,
    EntryKind.UP: pb.EVENT_KIND_UP,
    EntryKind.EXIT: pb.EVENT_KIND_EXIT,
    EntryKind.START_FAILED: pb.EVENT_KIND_START_FAILED,
    EntryKind.STOP: pb.EVENT_KIND_STOP,
    EntryKind.DOWN: pb.EVENT_KIND_DOWN,
    EntryKind.CONDITION: pb.EVENT_KIND_CONDITION,
}
SEVERITY = {
    Severity.INFO: pb.SEVERITY_INFO,
    Severity.WARNING: pb.SEVERITY_WARNING,
    Severity.ERROR: pb.SEVERITY_ERROR,
}
ORIGIN_KIND = {
    OriginKind.CALL: pb.ChangeOrigin.KIND_CALL,
    OriginKind.SIGNAL: pb.ChangeOrigin.KIND_SIGNAL,
    OriginKind.CONFIG: pb.ChangeOrigin.KIND_CONFIG,
    OriginKind.FILE: pb.ChangeOrigin.KIND_FILE,
    OriginKind.DEPENDENCY: pb.ChangeOrigin.KIND_DEPENDENCY,
    OriginKind.DAEMON: pb.ChangeOrigin.KIND_DAEMON,
}
TARGET = {
    Target.UP: pb.TARGET_STATE_UP,
    Target.DOWN: pb.TARGET_STATE_DOWN,
    Target.PASSIVE: pb.TARGET_STATE_PASSIVE,
}
_REQUESTED_TARGETS = {pb.TARGET_STATE_UP: Target.UP, pb.TARGET_STATE_DOWN: Target.DOWN}


@dataclass(frozen=True, slots=True)
class DaemonInfo:
    """The identity of the running daemon."""

    version: str
    epoch: str  # names one life of the daemon
    pid: int
    started: Instant


def timestamp(instant: Instant) -> Timestamp:
    """Return the wall time of an instant as a Timestamp, to the microsecond."""
    seconds, micros = divmod(round(instant.wall * 1e6), 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


# --- out -------------------------------------------------------------------------------------------------


def exit_(value: Exit) -> pb.Exit:
    """Return the end of a run as a message, with an exit code or the name of a signal."""
    message = pb.Exit(
        time=timestamp(value.at), expected=value.expected, message=value.why, pid=value.pid,
        out_of_memory=value.status.out_of_memory, core_dumped=value.status.core_dumped,
        limit=value.status.limit, last_output=value.last_output,
        start_time=timestamp(value.started) if value.started is not None else None,
    )  # fmt: skip
    if value.status.code is not None:
        message.code = value.status.code
    elif value.status.signal is not None:
        message.signal = signal_name(value.status.signal)
    return message


def problem(value: Problem) -> pb.ConfigProblem:
    """Return a problem of a config file as a message."""
    return pb.ConfigProblem(
        severity=SEVERITY[value.severity], file=value.file, line=value.line, column=value.column,
        message=value.message,
    )  # fmt: skip


def parse_status(value: ParseStatus) -> pb.ParseStatus:
    """Return the outcome of reading a config file as a message."""
    return pb.ParseStatus(
        success=value.success,
        time=timestamp(value.at),
        message=value.message,
        problems=[problem(each) for each in value.problems],
    )


def manager_status(value: ManagerStatus, daemon: DaemonInfo) -> pb.ManagerStatus:
    """Return the status of the manager and the identity of its daemon as a message."""
    return pb.ManagerStatus(
        state=MANAGER_STATE[value.state],
        host=value.host,
        version=daemon.version,
        epoch=daemon.epoch,
        start_time=timestamp(daemon.started),
        pid=daemon.pid,
        config_parse_status={name: parse_status(status) for name, status in value.parse_status.items()},
        site_config_file=value.site_config_file,
        orphans={container_id: convert_docker.orphan(each) for container_id, each in value.orphans.items()},
        new_tags=value.new_tags,
        problems=[why for _, why in sorted(value.problems.items()) if why],
    )


def event(value: PublishedEntry) -> pb.Event:
    """Return an entry of the event log as a message."""
    entry = value.entry
    return pb.Event(
        sequence=value.sequence,
        time=timestamp(entry.at),
        kind=EVENT_KIND[entry.kind],
        severity=SEVERITY[entry.severity],
        instance_id=entry.instance_id,
        reason=entry.reason,
        message=entry.message,
        exit=exit_(entry.exit) if entry.exit is not None else None,
        revision=value.revision,
        origin=origin(entry.origin),
    )


@lru_cache(maxsize=512)  # one reload is the origin of thousands of targets
def origin(value: Origin | None) -> pb.ChangeOrigin | None:
    """Return the origin of a change as a message, which must not be changed."""
    if value is None:
        return None
    message = pb.ChangeOrigin(
        kind=ORIGIN_KIND[value.kind], reason=value.reason, time=timestamp(value.at), detail=value.detail
    )
    if (who := value.requester) is not None:
        message.requester.CopyFrom(
            pb.Requester(
                user=who.user, program=who.program, pid=who.pid, uid=who.uid, verified=who.verified,
                peer=who.peer,
            )
        )  # fmt: skip
    return message


def events_message(
    entries: Sequence[PublishedEntry], resume_token: str, now: Instant, gap: pb.EventGap | None = None
) -> pb.WatchEventsResponse:
    """Return a message of WatchEvents; without entries the message is a heartbeat."""
    return pb.WatchEventsResponse(
        events=[event(each) for each in entries], gap=gap, resume_token=resume_token, time=timestamp(now)
    )


def event_gap(message: str, missed: int = 0) -> pb.EventGap:
    """Return the notice that a stream lacks events; 0: the number is not known."""
    return pb.EventGap(missed=missed, message=message)


def generations(values: Mapping[str, int], targets: Mapping[str, Target]) -> list[pb.InstanceGeneration]:
    """Return the generation and the target that each instance has after a request."""
    return [
        pb.InstanceGeneration(
            instance_id=instance_id, generation=generation, target_state=TARGET[targets[instance_id]]
        )
        for instance_id, generation in values.items()
    ]


def process_log_lines(batch: Iterable[Line]) -> Iterator[pb.LogLine]:
    """Yield the output lines of a native process as messages."""
    for line in batch:
        yield pb.LogLine(
            text=line.text,
            continues=line.continues,
            stream=pb.LOG_STREAM_COMBINED,
            time=convert_docker.line_time(line),
        )


# --- in --------------------------------------------------------------------------------------------------


def target_changes(
    requests: Sequence[pb.TargetChange],
    known: Collection[str] | None = None,
    *,
    with_dependencies: bool = False,
) -> list[TargetChange]:
    """Return the requested changes; `with_dependencies` goes into each.

    Raises RpcError with a violation for each entry that is incomplete, or that names no instance among
    `known` (None: a reload is about to change the instances, so ids are not checked).
    """
    changes: list[TargetChange] = []
    for request in requests:
        target = _REQUESTED_TARGETS.get(request.target_state)
        selector = request.WhichOneof("who") == "selector"
        who = request.selector if selector else ALL if request.all else request.instance_id
        if target is None or not who:
            raise invalid_entries(_violations(requests, known))
        changes.append(TargetChange(who, target, with_dependencies, selector, request.failing))
    return changes


def _violations(requests: Sequence[pb.TargetChange], known: Collection[str] | None) -> list[FieldViolation]:
    bad: list[FieldViolation] = []
    for index, request in enumerate(requests):
        entry = f"requests[{index}]"
        selector = request.WhichOneof("who") == "selector"
        who = request.selector if selector else ALL if request.all else request.instance_id
        if not who and selector:
            bad.append(FieldViolation(f"{entry}.selector", "a selector must not be empty"))
        elif not who:
            bad.append(FieldViolation(f"{entry}.instance_id", "name an instance_id, or set all to true"))
        elif known is not None and not selector and who != ALL and who not in known:
            bad.append(FieldViolation(f"{entry}.instance_id", no_instance(who)))
        if request.target_state not in _REQUESTED_TARGETS:
            text = f"{who or entry}: the target must be UP or DOWN"
            bad.append(FieldViolation(f"{entry}.target_state", text))
    return bad
