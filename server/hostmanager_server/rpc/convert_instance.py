"""Conversion of instances to protobuf messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb

from hostmanager_server.core.catalog import UNCLAIMED
from hostmanager_server.core.events import Instant
from hostmanager_server.core.health import is_failing
from hostmanager_server.core.model import Hold, Instance, State
from hostmanager_server.core.signals import end_word, signal_name
from hostmanager_server.core.spec import InstanceSpec, Management, ProcessSpec, Schedule, Target
from hostmanager_server.core.stability import stability
from hostmanager_server.rpc.convert import TARGET, exit_, origin, timestamp
from hostmanager_server.rpc.convert_docker import fill_service
from hostmanager_server.rpc.convert_liveness import liveness
from hostmanager_server.rpc.ports import LivenessAnswers
from hostmanager_server.rpc.wire import double, embedded
from hostmanager_server.state.store import Tracked

MANAGEMENT = {
    Management.HOST: pb.MANAGEMENT_HOST,
    Management.DOCKER: pb.MANAGEMENT_DOCKER,
    Management.RETIRED: pb.MANAGEMENT_RETIRED,
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
# The `agent_script` that OCS shows for an instance started through its plugin system.
PLUGIN = "__plugin__"
_KEPT = 100  # messages of instances that are gone; dropping them costs a pass over all


def shown_class(instance: Instance) -> str:
    """Return the agent class with OCS's suffix.

    The suffix is `[d]` for a compose service, `[d?]` for a service that is missing from the compose files.
    """
    spec = instance.spec
    if spec.management is not Management.DOCKER or spec.agent_class == UNCLAIMED:
        return spec.agent_class
    return spec.agent_class + ("[d]" if spec.service is not None else "[d?]")


def child_state(instance: Instance, now: Instant) -> pb.ChildState:
    """Return the short form of an instance's status, as GetStatus lists it."""
    return pb.ChildState(
        next_action=NEXT_ACTION[instance.next_action],
        target_state=TARGET[instance.wanted.target],
        stability=stability(instance.standing.fail_times, now) if instance.standing.fail_times else 1.0,
        agent_class=shown_class(instance),
        instance_id=instance.instance_id,
        operable=instance.operable,
        restart_required=instance.restart_required,
        held=instance.held,
    )


class InstanceConverter:
    """A cache of serialized ManagedInstance messages, each built once per change. For one thread."""

    def __init__(
        self, log_file: Callable[[InstanceSpec], str], answers: LivenessAnswers | None = None
    ) -> None:
        """Create a converter.

        `log_file` returns the path of a process's output file; `answers` has the newest answers of liveness
        probes.
        """
        self._log_file = log_file
        self._answers = answers
        self._made: dict[str, tuple[Tracked, bytes]] = {}

    def __call__(self, tracked: Tracked, now: Instant) -> bytes:
        """Return the serialized message for an instance."""
        instance = tracked.instance
        made = self._made.get(instance.instance_id)
        if made is None or made[0] is not tracked:
            made = tracked, self._convert(instance, tracked.revision).SerializeToString()
            self._made[instance.instance_id] = made
        # Stability recovers with time, without a change, so the cached message lacks the field.
        value = stability(instance.standing.fail_times, now) if instance.standing.fail_times else 1.0
        message = made[1] + double(pb.ManagedInstance.STABILITY_FIELD_NUMBER, value)
        if instance.spec.alive is None:
            return message
        # The newest answer changes without a change of the instance.
        probe = liveness(instance, self._answers).SerializeToString()
        return message + embedded(pb.ManagedInstance.LIVENESS_FIELD_NUMBER, probe)

    def forget_others(self, instances: Mapping[str, Tracked]) -> None:
        """Drop the messages of instances that are no longer tracked, when these are many."""
        if len(self._made) > 2 * len(instances) + _KEPT:
            self._made = {key: made for key, made in self._made.items() if key in instances}

    def _convert(self, instance: Instance, revision: int) -> pb.ManagedInstance:
        spec, wanted, observed, standing = (
            instance.spec, instance.wanted, instance.observed, instance.standing,
        )  # fmt: skip
        message = pb.ManagedInstance(
            instance_id=instance.instance_id,
            agent_class=shown_class(instance),
            full_name=spec.full_name,
            management=MANAGEMENT[wanted.management],
            operable=instance.operable,
            retired=instance.retired,
            passive_tracking=instance.passive_tracking or wanted.target is Target.PASSIVE,
            agent_script=PLUGIN if spec.management is not Management.DOCKER else _service_name(spec),
            restart_required=instance.restart_required,
            target_state=TARGET[wanted.target],
            next_action=NEXT_ACTION[instance.next_action],
            at=_deadline(instance),
            fail_times=[timestamp(at) for at in standing.fail_times],
            reason="OutOfSight" if observed.unobservable else standing.reason,
            message=observed.unobservable or standing.message,
            generation=wanted.generation,
            observed_generation=standing.observed_generation,
            revision=revision,
            start_time=_start_time(instance),
            restart_count=standing.restarts,
            consecutive_failures=standing.failures,
            last_exit=exit_(observed.last_exit) if observed.last_exit is not None else None,
            waiting_for=_waiting_for(instance),
            position=0 if instance.retired else spec.position,
            target_origin=origin(wanted.origins.target),
            restart_origin=origin(wanted.origins.restart),
            hold=_hold(wanted.hold) if wanted.hold is not None else None,
            schedule=_schedule(spec.schedule, observed.next_run) if spec.schedule is not None else None,
            labels=dict(spec.labels),
            failing=is_failing(instance),
        )
        if spec.management is Management.DOCKER:
            fill_service(message.compose_service, spec, observed.service)
        else:
            self._fill_process(message.process, instance)
        return message

    def _fill_process(self, message: pb.HostProcess, instance: Instance) -> None:
        """Set the fields of a native process: those of its run, or of the next run when there is none."""
        run = instance.observed.run
        workload = run.workload if run is not None else instance.spec.workload
        message.run = instance.standing.runs
        message.restart_above = instance.spec.restart_above or 0
        message.stop_signal = signal_name(instance.spec.stop.signal)
        message.success_codes.extend(map(end_word, instance.spec.success_codes))
        message.log_file = self._log_file(instance.spec)
        if run is not None:
            message.pid = run.pid
            message.memory_problem = run.unlimited
            message.adopted = run.adopted
        if isinstance(workload, ProcessSpec):
            message.command.extend(workload.argv)
            message.command_source = workload.source
            message.user = workload.user
            message.working_dir = workload.working_dir
            message.group = workload.group
            message.umask = "" if workload.umask is None else f"{workload.umask:04o}"
            message.memory_limit = workload.memory or 0
            if workload.nice is not None:
                message.nice = workload.nice
            message.env_files.extend(
                pb.EnvFile(path=file.path, optional=file.optional, loaded=bool(file.digest))
                for file in workload.env_files
            )


def _service_name(spec: InstanceSpec) -> str:
    return spec.service.service if spec.service is not None else ""


def _hold(hold: Hold) -> pb.InstanceHold:
    end = timestamp(hold.until) if hold.until is not None else None
    return pb.InstanceHold(start_time=timestamp(hold.since), end_time=end, reason=hold.reason)


def _schedule(schedule: Schedule, coming: float | None) -> pb.InstanceSchedule:
    message = pb.InstanceSchedule(cron=schedule.cron, timezone=schedule.timezone)
    message.catch_up.FromNanoseconds(round(schedule.catch_up * 1e9))
    if coming is not None:
        message.next_time.CopyFrom(timestamp(Instant(0.0, coming)))
    return message


def _deadline(instance: Instance) -> Timestamp | None:
    deadline = instance.standing.deadline
    return timestamp(deadline) if deadline is not None and not instance.observed.unobservable else None


def _start_time(instance: Instance) -> Timestamp | None:
    run = instance.observed.run
    if run is None or run.started is None or instance.observed.unobservable:
        return None
    return timestamp(run.started)


def _waiting_for(instance: Instance) -> Sequence[str]:
    match instance.standing.state:
        case State.START:
            return [unmet.instance_id for unmet in instance.observed.waiting_for]
        case State.UP | State.WAIT_START if not instance.should_run:
            return instance.observed.held_by
    return ()
