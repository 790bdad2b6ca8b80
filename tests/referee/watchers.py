"""Watchers: clients that record everything a watch sends, across the deaths of the daemon, and hold it to
its word as it comes."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import listens, open_channel
from tests.referee.ground import Ground
from tests.referee.verdict import Invariant, Violation

Message = TypeVar("Message")
Said_co = TypeVar("Said_co", covariant=True)

_AGAIN = 0.03  # s until a lost connection is tried again
_KEPT = 30  # messages kept as evidence


@dataclass(frozen=True, slots=True)
class Said:
    """What a watch said of an instance: `heard` in s since boot, `daemon` is the pid of who said it."""

    heard: float
    daemon: int
    instance: str
    state: int
    target: int
    pid: int
    revision: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A whole snapshot was received: these are the instances there are."""

    heard: float
    daemon: int
    instances: frozenset[str]


@dataclass(frozen=True, slots=True)
class Happened:
    """An exit that the event log tells of."""

    instance: str
    pid: int


class Stream(Protocol[Said_co]):
    """A server's stream."""

    def __iter__(self) -> Iterator[Said_co]: ...
    def cancel(self) -> object: ...


class Watcher(threading.Thread, Generic[Message]):
    """Watches until told to finish. `hangs_up`: the longest time in s after which it leaves by itself, and
    comes back; 0: only when the daemon goes."""

    def __init__(self, ground: Ground, rng: random.Random, name: str, hangs_up: float = 0.0) -> None:
        super().__init__(name=name, daemon=True)
        self._ground = ground
        self._rng = rng
        self._hangs_up = hangs_up
        self._over = threading.Event()
        self._may_watch = threading.Event()
        self._may_watch.set()
        self._resting = threading.Event()
        self._call: Stream[Message] | None = None
        self._lock = threading.Lock()
        self.token = ""
        self.messages = 0
        self.connections = 0
        self.trace: deque[str] = deque(maxlen=_KEPT)
        self.violation: BaseException | None = None

    def run(self) -> None:
        while not self._over.is_set():
            if not self._may_watch.is_set():
                self._resting.set()
                self._may_watch.wait(0.5)
                continue
            self._resting.clear()
            if not listens(self._ground):
                self._over.wait(_AGAIN)
                continue
            try:
                self._watch()
            except grpc.RpcError:
                self._over.wait(_AGAIN)
            except BaseException as error:
                self.violation = error
                return

    def rest(self) -> None:
        """Hang up, and stay away until `resume`."""
        self._may_watch.clear()
        self.hang_up()
        if not self._resting.wait(30) and self.violation is None:
            raise TimeoutError(f"{self.name} does not hang up")

    def resume(self) -> None:
        self._resting.clear()
        self._may_watch.set()

    def finish(self) -> None:
        self._over.set()
        self._may_watch.set()
        self.hang_up()

    def must_be_content(self) -> None:
        """Raises what it found wrong."""
        if self.violation is not None:
            raise self.violation

    def evidence(self) -> tuple[str, ...]:
        return tuple(f"{self.name}: {line}" for line in self.trace)

    def _watch(self) -> None:
        with open_channel(self._ground) as channel:
            stream = self._open(pb_grpc.HostManagerServiceStub(channel))
            with self._lock:
                self._call = stream
            timer: threading.Timer | None = None
            if self._hangs_up:
                timer = threading.Timer(self._rng.uniform(0, self._hangs_up), stream.cancel)
                timer.start()
            try:
                if self._over.is_set() or not self._may_watch.is_set():
                    return
                self.connections += 1
                self._read(stream)
            finally:
                stream.cancel()
                if timer is not None:
                    timer.cancel()

    def hang_up(self) -> None:
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> Stream[Message]:
        raise AssertionError("a subclass opens its stream")

    def _read(self, stream: Stream[Message]) -> None:
        raise AssertionError("a subclass reads its stream")

    def _wrong(self, what: str) -> Violation:
        return Violation(Invariant.I4, f"{self.name}: {what}", self.evidence())


class StatusWatcher(Watcher[pb.WatchStatusResponse]):
    """Follows WatchStatus. What it has put together is `view`; what it heard waits in `said`."""

    def __init__(self, ground: Ground, rng: random.Random, name: str, hangs_up: float = 0.0) -> None:
        super().__init__(ground, rng, name, hangs_up)
        self.epoch = ""
        self.daemon_pid = 0
        self.revision = 0
        self.view: dict[str, pb.ManagedInstance] = {}
        self.said: deque[Said | Listed] = deque()
        self._pieces: dict[str, pb.ManagedInstance] | None = None
        self._guests = frozenset(agent.instance for agent in ground.agents if agent.guest)

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> Stream[pb.WatchStatusResponse]:
        return stub.WatchStatus(pb.WatchStatusRequest(resume_token=self.token))

    def _read(self, stream: Stream[pb.WatchStatusResponse]) -> None:
        self._pieces = None
        first = True
        for message in stream:
            self.messages += 1
            self._note(message)
            match message.WhichOneof("update"):
                case "snapshot":
                    self._snapshot(message, first)
                case "delta":
                    self._delta(message)
                case "heartbeat":
                    if message.revision < self.revision:
                        raise self._wrong(f"a heartbeat goes back to {message.revision}")
                case _:
                    raise self._wrong("a message without content")
            self.token = message.resume_token or self.token
            first = False

    def _note(self, message: pb.WatchStatusResponse) -> None:
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

    def _snapshot(self, message: pb.WatchStatusResponse, first: bool) -> None:
        piece = message.snapshot
        if piece.first:
            self._begin_snapshot(message, first)
        if self._pieces is None:
            raise self._wrong("a piece of a snapshot without its beginning")
        for instance in piece.instances:
            if instance.revision > message.revision:
                raise self._wrong(
                    f"{instance.instance_id} is of revision {instance.revision}, which is to come"
                )
            self._pieces[instance.instance_id] = instance
        if piece.last:
            self.view, self._pieces = self._pieces, None
            self.revision = message.revision
            heard = proc.now()
            self.said.append(Listed(heard, self.daemon_pid, frozenset(self.view)))
            self._say(self.view.values(), heard)

    def _begin_snapshot(self, message: pb.WatchStatusResponse, first: bool) -> None:
        manager, reason = message.snapshot.manager, message.snapshot.reason
        known, self.epoch, self.daemon_pid = self.epoch, manager.epoch, manager.pid
        self._pieces = {}
        if not first:
            if reason != pb.StatusSnapshot.REASON_SLOW_CONSUMER:
                raise self._wrong("a snapshot in the middle of a watch without a reason for it")
            return
        if not self.token:
            wanted = pb.StatusSnapshot.REASON_INITIAL
        elif manager.epoch != known:
            wanted = pb.StatusSnapshot.REASON_EPOCH_CHANGED
        else:
            raise self._wrong("the same daemon sends a snapshot instead of what changed since the token")
        if reason != wanted:
            name = pb.StatusSnapshot.Reason.Name
            raise self._wrong(f"a snapshot says {name(reason)} where {name(wanted)} is so")

    def _delta(self, message: pb.WatchStatusResponse) -> None:
        if self._pieces is not None:
            raise self._wrong("a delta in the middle of a snapshot")
        rest = bool(message.delta.removed_instance_ids) or message.delta.HasField("manager")
        # Only the last piece of a large delta brings the revision on, and has the rest.
        if message.revision < self.revision or (message.revision == self.revision and rest):
            raise self._wrong(f"revision {message.revision} comes after {self.revision}")
        if not message.delta.instances and not rest:
            raise self._wrong("a delta without a change")
        for instance in message.delta.instances:
            if instance.revision <= self.revision:
                text = f"{instance.instance_id} of revision {instance.revision} is sent again"
                raise self._wrong(f"{text} after {self.revision}")
            known = self.view.get(instance.instance_id)
            if known is not None and known.generation > instance.generation and not self._is_guest(known):
                raise self._wrong(f"the generation of {instance.instance_id} goes back")
            self.view[instance.instance_id] = instance
        for gone in message.delta.removed_instance_ids:
            self.view.pop(gone, None)
        self.revision = message.revision
        self._say(message.delta.instances, proc.now())

    def _is_guest(self, instance: pb.ManagedInstance) -> bool:
        """Whether it may have left the list, and come back, since."""
        return instance.instance_id in self._guests

    def _say(self, instances: Iterable[pb.ManagedInstance], heard: float) -> None:
        self.said.extend(
            Said(
                heard,
                self.daemon_pid,
                i.instance_id,
                i.next_action,
                i.target_state,
                i.process.pid,
                i.revision,
            )
            for i in instances
        )


class EventWatcher(Watcher[pb.WatchEventsResponse]):
    """Follows WatchEvents: no number may be missing, none come twice."""

    def __init__(self, ground: Ground, rng: random.Random, name: str, hangs_up: float = 0.0) -> None:
        super().__init__(ground, rng, name, hangs_up)
        self.sequence: int | None = None
        self.exits: deque[Happened] = deque()
        self.gaps = 0

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> Stream[pb.WatchEventsResponse]:
        return stub.WatchEvents(pb.WatchEventsRequest(resume_token=self.token))

    def _read(self, stream: Stream[pb.WatchEventsResponse]) -> None:
        for message in stream:
            self.messages += 1
            for event in message.events:
                self.trace.append(
                    f"{proc.now():.3f} connection {self.connections} event {event.sequence} "
                    f"{event.instance_id} {event.reason}: {event.message}"
                )
            if message.HasField("gap"):
                self.trace.append(
                    f"{proc.now():.3f} connection {self.connections} gap: {message.gap.message}"
                )
                self.gaps += 1
                self.sequence = 0 if message.gap.missed == 0 else None
            for event in message.events:
                if self.sequence is not None and event.sequence != self.sequence + 1:
                    raise self._wrong(f"event {event.sequence} comes after {self.sequence}")
                self.sequence = event.sequence
                if event.HasField("exit"):
                    self.exits.append(Happened(event.instance_id, event.exit.pid))
            self.token = message.resume_token
