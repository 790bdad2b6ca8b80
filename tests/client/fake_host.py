"""The state of the fake daemon, and the controls for tests.

Instances reach their targets at once unless their ids are in `stubborn`. `fail_next` answers the next call
with an error, `drop_streams` breaks every stream, `silent` stops all heartbeats, `hold` stops all messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_server.core.selection import SelectorError, select
from hostmanager_server.core.spec import InstanceSpec


def packed_details(
    code: grpc.StatusCode, message: str, reason: str, violations: list[tuple[str, str]]
) -> tuple[str, bytes]:
    """Return the details of the contract as trailing metadata."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain="hostmanager")]
    if violations:
        bad = error_details_pb2.BadRequest()
        for where, what in violations:
            bad.field_violations.add(field=where, description=what)
        details.append(bad)
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return "grpc-status-details-bin", status.SerializeToString()


@dataclass
class FakeService(pb_grpc.HostManagerServiceServicer):
    """The service with its state; `restart` begins a new epoch."""

    socket: Path
    epoch: str = "epoch-1"
    revision: int = 1
    instances: dict[str, pb.ManagedInstance] = field(default_factory=dict)
    removals: dict[str, int] = field(default_factory=dict)
    stubborn: set[str] = field(default_factory=set)
    events: list[pb.Event] = field(default_factory=list)
    usages: list[pb.InstanceUsage] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    log_times: dict[tuple[str, int], float] = field(default_factory=dict)  # of the lines with a time
    log_requests: list[pb.TailLogsRequest] = field(default_factory=list)
    old_daemon: bool = False  # does not say when a follower has caught up
    orphans: dict[str, pb.Orphan] = field(default_factory=dict)
    new_tags: dict[str, str] = field(default_factory=dict)
    pulls: list[pb.DockerPullResponse] = field(default_factory=list)
    pull_waits: bool = False  # a pull sends nothing more, and goes on
    orphan_removals: list[pb.RemoveOrphansResponse] = field(default_factory=list)
    manager_state: pb.ManagerState.ValueType = pb.MANAGER_STATE_RUNNING
    problems: list[pb.ConfigProblem] = field(default_factory=list)
    explanations: list[pb.Explanation] = field(default_factory=list)
    callers: list[dict[str, Any]] = field(default_factory=list)  # what the client of each call says
    fail_next: tuple[grpc.StatusCode, str, str, list[tuple[str, str]]] | None = None
    config_changes: list[pb.InstanceChange] = field(default_factory=list)  # of the next reload
    requests: list[Message] = field(default_factory=list)
    pieces: int = 2
    page_limit: int = 3
    silent: bool = False
    hold: bool = False
    streams: int = 0
    generation_of_streams: int = 0
    died: bool = False
    upgrade_succeeds: bool = True

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.hanging = threading.Event()  # cleared: no call gets an answer
        self.hanging.set()
        self.server: grpc.Server | None = None

    # --- server

    def start(self) -> None:
        self.server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)]
        )
        pb_grpc.add_HostManagerServiceServicer_to_server(self, self.server)
        assert self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.drop_streams()
            self.server.stop(None).wait()
            self.server = None

    def restart(self, epoch: str) -> None:
        """Restart with a new epoch and revisions from 1."""
        self.stop()
        self.epoch, self.revision = epoch, 1
        self.removals.clear()
        for instance in self.instances.values():
            instance.revision = 1
        self.start()

    def drop_streams(self) -> None:
        with self.changed:
            self.generation_of_streams += 1
            self.changed.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout=30)

    # --- state

    def add(self, instance_id: str, **fields: Any) -> pb.ManagedInstance:
        values: dict[str, Any] = {
            "instance_id": instance_id,
            "agent_class": "FakeData",
            "full_name": f"FakeData:{instance_id}",
            "management": pb.MANAGEMENT_HOST,
            "operable": True,
            "target_state": pb.TARGET_STATE_UP,
            "next_action": pb.NEXT_ACTION_UP,
            "stability": 1.0,
            "reason": "Running",
            "message": "running",
            "generation": 1,
            "observed_generation": 1,
        } | fields
        instance = pb.ManagedInstance(**values)
        if instance.WhichOneof("runtime") is None:
            instance.process.pid = 4000 + len(self.instances)
            instance.process.command.extend(["agent", instance_id])
        instance.start_time.GetCurrentTime()
        self.publish(instance)
        return instance

    def publish(self, *instances: pb.ManagedInstance) -> None:
        with self.changed:
            self.revision += 1
            for instance in instances:
                instance.revision = self.revision
                copy = pb.ManagedInstance()
                copy.CopyFrom(instance)
                self.instances[instance.instance_id] = copy
            self.changed.notify_all()

    def change(self, instance_id: str, **fields: Any) -> None:
        instance = pb.ManagedInstance()
        instance.CopyFrom(self.instances[instance_id])
        for name, value in fields.items():
            setattr(instance, name, value)
        self.publish(instance)

    def remove(self, instance_id: str) -> None:
        with self.changed:
            self.revision += 1
            del self.instances[instance_id]
            self.removals[instance_id] = self.revision
            self.changed.notify_all()

    def happen(self, message: str, instance_id: str = "", **fields: Any) -> None:
        with self.changed:
            event = pb.Event(
                sequence=len(self.events) + 1, message=message, instance_id=instance_id, **fields
            )
            event.time.GetCurrentTime()
            self.events.append(event)
            self.changed.notify_all()

    def write(self, instance_id: str, *lines: str, at: float = 0.0) -> None:
        with self.changed:
            known = self.logs.setdefault(instance_id, [])
            self.log_times |= {(instance_id, len(known) + n): at for n in range(len(lines)) if at}
            known.extend(lines)
            self.changed.notify_all()

    def settle(self, instance_id: str) -> None:
        """Move an instance to its target."""
        instance = self.instances[instance_id]
        up = instance.target_state == pb.TARGET_STATE_UP
        self.change(
            instance_id,
            next_action=pb.NEXT_ACTION_UP if up else pb.NEXT_ACTION_DOWN,
            reason="Running" if up else "Stopped",
            message="running" if up else "never started",
            observed_generation=instance.generation,
        )

    # --- steps

    def _enter(self, request: Message, context: grpc.ServicerContext) -> None:
        self.hanging.wait(30)
        self.requests.append(request)
        metadata = [(key, value) for key, value in context.invocation_metadata() if "hostmanager" in key]
        self.callers.append(dict(metadata))
        if self.fail_next is not None:
            failure, self.fail_next = self.fail_next, None
            self._fail(context, *failure)

    def _fail(
        self,
        context: grpc.ServicerContext,
        code: grpc.StatusCode,
        message: str,
        reason: str,
        violations: list[tuple[str, str]],
    ) -> NoReturn:
        context.set_trailing_metadata((packed_details(code, message, reason, violations),))
        context.abort(code, message)
        raise AssertionError

    def _check(self, context: grpc.ServicerContext, ids: dict[str, str]) -> None:
        unknown = [(where, f"no instance {i!r}") for where, i in ids.items() if i not in self.instances]
        if unknown:
            text = "unknown instance: " + ", ".join(ids[where] for where, _ in unknown)
            self._fail(context, grpc.StatusCode.NOT_FOUND, text, "UNKNOWN_INSTANCE", unknown)

    def select(
        self, context: grpc.ServicerContext, selectors: Iterable[str], where: str = "selectors[{}]"
    ) -> list[str]:
        """Return the ids that the selectors name, by the rules of the daemon."""
        specs = {
            i.instance_id: InstanceSpec(
                i.instance_id, i.full_name.partition(":")[0], labels=tuple(i.labels.items())
            )
            for i in self.instances.values()
        }
        found: list[str] = []
        for number, text in enumerate(selectors):
            try:
                found += select(text, specs)
            except SelectorError as error:
                code = grpc.StatusCode.NOT_FOUND if error.unknown else grpc.StatusCode.INVALID_ARGUMENT
                reason = "UNKNOWN_INSTANCE" if error.unknown else "INVALID_REQUEST"
                self._fail(context, code, str(error), reason, [(where.format(number), str(error))])
        return found

    def _token(self) -> str:
        return f"{self.epoch}:{self.revision}"

    def manager(self) -> pb.ManagerStatus:
        manager = pb.ManagerStatus(
            state=self.manager_state, host="daq1", version="0.1.0", epoch=self.epoch, pid=4242,
            site_config_file="/etc/site.yaml",
        )  # fmt: skip
        manager.start_time.FromSeconds(1_700_000_000)
        status = manager.config_parse_status["[SCF]"]
        status.success = not any(p.severity == pb.SEVERITY_ERROR for p in self.problems)
        status.problems.extend(self.problems)
        for container_id, orphan in self.orphans.items():
            manager.orphans[container_id].CopyFrom(orphan)
        manager.new_tags.update(self.new_tags)
        return manager


def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + timeout
    event = threading.Event()
    while not condition():
        assert time.monotonic() < end, "the condition did not hold in time"
        event.wait(0.01)
