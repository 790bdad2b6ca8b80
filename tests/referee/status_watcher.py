"""A client of WatchStatus that checks the order of messages and records the observed states."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.host import Host
from tests.referee.watcher import RefereeWatcher, WatchStream


@dataclass(frozen=True, slots=True)
class ObservedState:
    """The state of an instance in a message.

    `received` and `started` (of the process) are in s since boot; `daemon` is the pid of the sender.
    """

    received: float
    daemon: int
    instance: str
    state: int
    target: int
    pid: int
    revision: int
    started: float


@dataclass(frozen=True, slots=True)
class ObservedSnapshot:
    """The instances of a complete snapshot."""

    received: float
    daemon: int
    instances: frozenset[str]


class StatusWatcher(RefereeWatcher[pb.WatchStatusResponse]):
    """A follower of WatchStatus.

    `view` is the state built from all messages; `observations` wait for a check.
    """

    def __init__(self, host: Host, rng: random.Random, name: str, disconnect_after: float = 0.0) -> None:
        super().__init__(host, rng, name, disconnect_after)
        self.epoch = ""
        self.daemon_pid = 0
        self.revision = 0
        self.view: dict[str, pb.ManagedInstance] = {}
        self.observations: deque[ObservedState | ObservedSnapshot] = deque()
        self._pieces: dict[str, pb.ManagedInstance] | None = None
        self._guests = frozenset(agent.instance for agent in host.agents if agent.guest)

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> WatchStream[pb.WatchStatusResponse]:
        return stub.WatchStatus(pb.WatchStatusRequest(resume_token=self.token))

    def _read(self, stream: WatchStream[pb.WatchStatusResponse]) -> None:
        self._pieces = None
        first = True
        for message in stream:
            self.messages += 1
            self._trace_message(message)
            match message.WhichOneof("update"):
                case "snapshot":
                    self._snapshot(message, first=first)
                case "delta":
                    self._delta(message)
                case "heartbeat":
                    if message.revision < self.revision:
                        raise self._protocol_error(f"a heartbeat goes back to {message.revision}")
                case _:
                    raise self._protocol_error("a message without content")
            self.token = message.resume_token or self.token
            first = False

    def _trace_message(self, message: pb.WatchStatusResponse) -> None:
        kind = message.WhichOneof("update")
        update = message.snapshot if kind == "snapshot" else message.delta
        what = " ".join(
            f"{i.instance_id}={pb.NextAction.Name(i.next_action).removeprefix('NEXT_ACTION_').lower()}"
            f"({i.process.pid})@{i.revision}"
            for i in update.instances
        )
        reason = pb.StatusSnapshot.Reason.Name(message.snapshot.reason) if kind == "snapshot" else ""
        gone = ",".join(message.delta.removed_instance_ids)
        self.trace.append(
            f"{proc.now():.3f} connection {self.connections} revision {message.revision} {kind} "
            f"{reason} {what}" + (f" removed {gone}" if gone else "")
        )

    def _snapshot(self, message: pb.WatchStatusResponse, *, first: bool) -> None:
        piece = message.snapshot
        if piece.first:
            self._begin_snapshot(message, first=first)
        if self._pieces is None:
            raise self._protocol_error("a piece of a snapshot without its beginning")
        for instance in piece.instances:
            if instance.revision > message.revision:
                raise self._protocol_error(
                    f"{instance.instance_id} has revision {instance.revision}, beyond the message"
                )
            self._pieces[instance.instance_id] = instance
        if piece.last:
            self.view, self._pieces = self._pieces, None
            self.revision = message.revision
            received = proc.now()
            self.observations.append(ObservedSnapshot(received, self.daemon_pid, frozenset(self.view)))
            self._record(self.view.values(), received)

    def _begin_snapshot(self, message: pb.WatchStatusResponse, *, first: bool) -> None:
        manager, reason = message.snapshot.manager, message.snapshot.reason
        known, self.epoch, self.daemon_pid = self.epoch, manager.epoch, manager.pid
        self._pieces = {}
        if not first:
            if reason != pb.StatusSnapshot.REASON_SLOW_CONSUMER:
                raise self._protocol_error("a snapshot within a watch, for no reason")
            return
        if not self.token:
            wanted = pb.StatusSnapshot.REASON_INITIAL
        elif manager.epoch != known:
            wanted = pb.StatusSnapshot.REASON_EPOCH_CHANGED
        else:
            raise self._protocol_error(
                "the same daemon sends a snapshot instead of the changes since the token"
            )
        if reason != wanted:
            name = pb.StatusSnapshot.Reason.Name
            raise self._protocol_error(f"a snapshot has {name(reason)} instead of {name(wanted)}")

    def _delta(self, message: pb.WatchStatusResponse) -> None:
        if self._pieces is not None:
            raise self._protocol_error("a delta in the middle of a snapshot")
        rest = bool(message.delta.removed_instance_ids) or message.delta.HasField("manager")
        # Only the last piece of a large delta has the new revision, removals and the manager.
        if message.revision < self.revision or (message.revision == self.revision and rest):
            raise self._protocol_error(f"revision {message.revision} comes after {self.revision}")
        if not message.delta.instances and not rest:
            raise self._protocol_error("a delta without a change")
        for instance in message.delta.instances:
            if instance.revision <= self.revision:
                text = f"{instance.instance_id} of revision {instance.revision} is sent again"
                raise self._protocol_error(f"{text} after {self.revision}")
            known = self.view.get(instance.instance_id)
            if known is not None and known.generation > instance.generation and not self._is_guest(known):
                raise self._protocol_error(f"the generation of {instance.instance_id} goes back")
            self.view[instance.instance_id] = instance
        for gone in message.delta.removed_instance_ids:
            self.view.pop(gone, None)
        self.revision = message.revision
        self._record(message.delta.instances, proc.now())

    def _is_guest(self, instance: pb.ManagedInstance) -> bool:
        """Return whether reloads may have removed and added the instance meanwhile."""
        return instance.instance_id in self._guests

    def _record(self, instances: Iterable[pb.ManagedInstance], received: float) -> None:
        self.observations.extend(
            ObservedState(
                received,
                self.daemon_pid,
                i.instance_id,
                i.next_action,
                i.target_state,
                i.process.pid,
                i.revision,
                proc.since_boot(i.start_time.ToNanoseconds() / 1e9),
            )
            for i in instances
        )
