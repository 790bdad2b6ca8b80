"""A client of WatchEvents that checks the sequence numbers of events."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.host import Host
from tests.referee.watcher import RefereeWatcher, WatchStream


@dataclass(frozen=True, slots=True)
class ExitEvent:
    """An exit in the event log."""

    instance: str
    pid: int


class EventWatcher(RefereeWatcher[pb.WatchEventsResponse]):
    """A follower of WatchEvents: no sequence number is missing or repeated."""

    def __init__(self, host: Host, rng: random.Random, name: str, disconnect_after: float = 0.0) -> None:
        super().__init__(host, rng, name, disconnect_after)
        self.sequence: int | None = None
        self.exits: deque[ExitEvent] = deque()
        self.gaps = 0

    def _open(self, stub: pb_grpc.HostManagerServiceStub) -> WatchStream[pb.WatchEventsResponse]:
        return stub.WatchEvents(pb.WatchEventsRequest(resume_token=self.token))

    def _read(self, stream: WatchStream[pb.WatchEventsResponse]) -> None:
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
                self.sequence = None
            for event in message.events:
                if self.sequence is not None and event.sequence != self.sequence + 1:
                    raise self._protocol_error(f"event {event.sequence} comes after {self.sequence}")
                self.sequence = event.sequence
                if event.HasField("exit"):
                    self.exits.append(ExitEvent(event.instance_id, event.exit.pid))
            self.token = message.resume_token
