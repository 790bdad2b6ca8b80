"""Between the core's values and protobuf messages: the only place that knows both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.compose import Orphan, ServiceStatus
from hostmanager_server.core.event_log import EntryKind, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.facts import signal_name
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus, ParseStatus, Problem
from hostmanager_server.core.model import Exit, Instance, State
from hostmanager_server.core.plan import ALL, TargetChange, no_instance
from hostmanager_server.core.spec import InstanceSpec, Management, ProcessSpec, Target
from hostmanager_server.core.stability import stability
from hostmanager_server.rpc.errors import FieldViolation, RpcError, invalid, invalid_entries
from hostmanager_server.state.store import PublishedEntry, Tracked

MANAGEMENT = {
    Management.HOST: pb.MANAGEMENT_HOST,
    Management.DOCKER: pb.MANAGEMENT_DOCKER,
    Management.RETIRED: pb.MANAGEMENT_RETIRED,
}
TARGET = {
    Target.UP: pb.TARGET_STATE_UP,
    Target.DOWN: pb.TARGET_STATE_DOWN,
    Target.PASSIVE: pb.TARGET_STATE_PASSIVE,
}
NEXT_ACTION = {
    State.DOWN: pb.NEXT_ACTION_DOWN,
    State.START_AT: pb.NEXT_ACTION_START_AT,
    State.START: pb.NEXT_ACTION_START,
    State.WAIT_START: pb.NEXT_ACTION_WAIT_START,
    State.UP: pb.NEXT_ACTION_UP,
    State.WAIT_DEAD: pb.NEXT_ACTION_WAIT_DEAD,
    State.UNKNOWN: pb.NEXT_ACTION_UNKNOWN,
}
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
}
SEVERITY = {
    Severity.INFO: pb.SEVERITY_INFO,
    Severity.WARNING: pb.SEVERITY_WARNING,
    Severity.ERROR: pb.SEVERITY_ERROR,
}
# What OCS shows as `agent_script` of an instance that is started through its plugin system.
PLUGIN = "__plugin__"


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the daemon says of itself."""

    version: str
    epoch: str
    pid: int
    started: Instant


def timestamp(instant: Instant) -> Timestamp:
    return wall_timestamp(instant.wall)


def wall_timestamp(wall: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp, to the microsecond."""
    seconds, micros = divmod(round(wall * 1e6), 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


# --- out -------------------------------------------------------------------------------------------------


def shown_class(instance: Instance) -> str:
    """The agent class with OCS's suffix: `[d]` for a compose service, `[d?]` for one that was not found."""
    spec = instance.spec
    if spec.management is not Management.DOCKER or spec.agent_class == UNCLAIMED:
        return spec.agent_class
    return spec.agent_class + ("[d]" if spec.service is not None else "[d?]")


def child_state(instance: Instance, now: Instant) -> pb.ChildState:
    return pb.ChildState(
        next_action=NEXT_ACTION[instance.next_action],
        target_state=TARGET[instance.wanted.target],
        stability=stability(instance.standing.fail_times, now) if instance.standing.fail_times else 1.0,
        agent_class=shown_class(instance),
        instance_id=instance.instance_id,
        operable=instance.operable,
        restart_required=instance.restart_required,
    )


class InstanceConverter:
    """Makes ManagedInstance messages, each once per change. For one thread."""

    def __init__(self, log_file: Callable[[InstanceSpec], str]) -> None:
        self._log_file = log_file
        self._made: dict[str, tuple[Tracked, pb.ManagedInstance]] = {}

    def __call__(self, tracked: Tracked, now: Instant) -> pb.ManagedInstance:
        """The message; not to be changed by the caller."""
        instance = tracked.instance
        made = self._made.get(instance.instance_id)
        if made is not None and made[0] is tracked:
            message = made[1]
            if instance.standing.fail_times:  # stability is a matter of time, not of change
                message = pb.ManagedInstance()
                message.CopyFrom(made[1])
                message.stability = stability(instance.standing.fail_times, now)
            return message
        message = self._convert(instance, tracked.revision, now)
        self._made[instance.instance_id] = (tracked, message)
        return message

    def forget(self, instance_ids: Iterable[str]) -> None:
        """These are gone."""
        for instance_id in instance_ids:
            self._made.pop(instance_id, None)

    def _convert(self, i: Instance, revision: int, now: Instant) -> pb.ManagedInstance:
        message = pb.ManagedInstance(
            instance_id=i.instance_id,
            agent_class=shown_class(i),
            full_name=i.spec.full_name,
            management=MANAGEMENT[i.wanted.management],
            operable=i.operable,
            retired=i.retired,
            passive_tracking=i.passive_tracking or i.wanted.target is Target.PASSIVE,
            agent_script=PLUGIN if i.spec.management is not Management.DOCKER else _service_name(i.spec),
            restart_required=i.restart_required,
            target_state=TARGET[i.wanted.target],
            next_action=NEXT_ACTION[i.next_action],
            at=_deadline(i),
            fail_times=[timestamp(t) for t in i.standing.fail_times],
            stability=stability(i.standing.fail_times, now),
            reason="OutOfSight" if i.observed.unobservable else i.standing.reason,
            message=i.observed.unobservable or i.standing.message,
            generation=i.wanted.generation,
            observed_generation=i.standing.observed_generation,
            revision=revision,
            start_time=_start_time(i),
            restart_count=i.standing.restarts,
            consecutive_failures=i.standing.failures,
            last_exit=exit_(i.observed.last_exit) if i.observed.last_exit is not None else None,
            waiting_for=_waiting_for(i),
        )
        if i.spec.management is Management.DOCKER:
            _fill_service(message.compose_service, i.spec, i.observed.service)
        else:
            self._fill_process(message.process, i)
        return message

    def _fill_process(self, message: pb.HostProcess, i: Instance) -> None:
        process = i.observed.run.workload if i.observed.run is not None else i.spec.workload
        message.run = i.standing.runs
        message.log_file = self._log_file(i.spec)
        if i.observed.run is not None:
            message.pid = i.observed.run.pid
            message.adopted = i.observed.run.adopted
        if isinstance(process, ProcessSpec):
            message.command.extend(process.argv)
            message.command_source = process.source
            message.user = process.user
            message.working_dir = process.working_dir


def _service_name(spec: InstanceSpec) -> str:
    return spec.service.service if spec.service is not None else ""


def _fill_service(message: pb.ComposeService, spec: InstanceSpec, record: ServiceStatus | None) -> None:
    if spec.service is not None:
        message.compose_file = spec.service.file
        message.service = spec.service.service
        message.image_tag = spec.service.image
        message.project = spec.service.project
        message.replicas = spec.service.replicas
    record = record or ServiceStatus()
    message.image_id = record.image_id
    message.container_found = bool(record.container_id)
    message.container_id = record.container_id
    message.container_name = record.container_name
    message.running = record.running
    message.running_image = record.running_image
    message.exit_code = record.exit_code
    message.running_replicas = record.running_replicas
    message.status = record.status
    message.health = record.health
    message.definition_changed = record.definition_changed
    message.pid = record.pid


def _deadline(i: Instance) -> Timestamp | None:
    deadline = i.standing.deadline
    return timestamp(deadline) if deadline is not None and not i.observed.unobservable else None


def _start_time(i: Instance) -> Timestamp | None:
    if i.observed.run is None or i.observed.run.started is None or i.observed.unobservable:
        return None
    return timestamp(i.observed.run.started)


def _waiting_for(i: Instance) -> Sequence[str]:
    match i.standing.state:
        case State.START:
            return i.observed.waiting_for
        case State.UP if not i.should_run:
            return i.observed.held_by
    return ()


def exit_(value: Exit) -> pb.Exit:
    message = pb.Exit(
        time=timestamp(value.at), expected=value.expected, message=value.why, pid=value.pid,
        start_time=timestamp(value.started) if value.started is not None else None,
    )  # fmt: skip
    if value.status.code is not None:
        message.code = value.status.code
    elif value.status.signal is not None:
        message.signal = signal_name(value.status.signal)
    return message


def problem(value: Problem) -> pb.ConfigProblem:
    return pb.ConfigProblem(
        severity=SEVERITY[value.severity], file=value.file, line=value.line, column=value.column,
        message=value.message,
    )  # fmt: skip


def parse_status(value: ParseStatus) -> pb.ParseStatus:
    return pb.ParseStatus(
        success=value.success,
        time=timestamp(value.at),
        message=value.message,
        problems=[problem(p) for p in value.problems],
    )


def orphan(value: Orphan) -> pb.Orphan:
    return pb.Orphan(
        container_id=value.container_id, compose_file=value.compose_file, service=value.service,
        running=value.running, container_found=True, running_image=value.running_image,
        exit_code=value.exit_code,
    )  # fmt: skip


def manager_status(value: ManagerStatus, daemon: Daemon) -> pb.ManagerStatus:
    return pb.ManagerStatus(
        state=MANAGER_STATE[value.state],
        host=value.host,
        version=daemon.version,
        epoch=daemon.epoch,
        start_time=timestamp(daemon.started),
        pid=daemon.pid,
        config_parse_status={name: parse_status(status) for name, status in value.parse_status.items()},
        site_config_file=value.site_config_file,
        orphans={container_id: orphan(o) for container_id, o in value.orphans.items()},
        new_tags=value.new_tags,
        problems=[why for _, why in sorted(value.problems.items()) if why],
    )


def event(value: PublishedEntry) -> pb.Event:
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
    )


# --- in --------------------------------------------------------------------------------------------------


def target_changes(
    requests: Sequence[pb.TargetChange], known: Collection[str] | None = None
) -> list[TargetChange]:
    """The changes asked for. Raises RpcError when an entry makes no sense, with a violation for each such
    one, and for each that names no instance among the `known` (None: which there are is not known yet)."""
    changes: list[TargetChange] = []
    for request in requests:
        target = _ASKED.get(request.target_state)
        who = ALL if request.all else request.instance_id
        if target is None or not who:
            raise invalid_entries(_violations(requests, known))
        changes.append(TargetChange(who, target))
    return changes


_ASKED = {pb.TARGET_STATE_UP: Target.UP, pb.TARGET_STATE_DOWN: Target.DOWN}


def _violations(requests: Sequence[pb.TargetChange], known: Collection[str] | None) -> list[FieldViolation]:
    bad: list[FieldViolation] = []
    for index, request in enumerate(requests):
        where = f"requests[{index}]"
        who = ALL if request.all else request.instance_id
        if not who:
            bad.append(FieldViolation(f"{where}.instance_id", "name an instance_id, or set all to true"))
        elif known is not None and who != ALL and who not in known:
            bad.append(FieldViolation(f"{where}.instance_id", no_instance(who)))
        if request.target_state not in _ASKED:
            bad.append(
                FieldViolation(f"{where}.target_state", f"{who or where}: the target must be UP or DOWN")
            )
    return bad


# --- resume tokens -----------------------------------------------------------------------------------------


def token(epoch: str, position: int) -> str:
    """Where a stream left off: a position (revision or sequence) in an epoch."""
    return f"{epoch}.{position}"


def read_token(text: str, field: str = "resume_token") -> tuple[str, int]:
    """Epoch and position of a token. Raises RpcError when it is none of ours."""
    epoch, dot, position = text.rpartition(".")
    if not dot or not epoch or not position.isascii() or not position.isdigit() or len(position) > 18:
        raise _bad_token(field)
    return epoch, int(position)


def _bad_token(field: str) -> RpcError:
    message = f"{field} is not one that this API gave out; leave it empty to start afresh"
    return invalid(message, FieldViolation(field, message))
