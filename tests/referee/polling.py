"""How a check looks: patiently, and with what it can show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonLife, DiedError
from tests.referee.ground import Ground

T = TypeVar("T")

# How long what must come about may take on a busy machine, s. Nothing waits this long when all is well.
PATIENCE = 30.0
_DYING = 5.0  # s from the last word of a daemon to its end
_LOOK = 0.01  # s between two looks

# What is said of an instance of which nothing runs.
NOTHING_RUNS = (pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_START_AT, pb.NEXT_ACTION_START)


def eventually(condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """The condition's value as soon as it is true, or its last one when it never was."""
    deadline = proc.now() + patience
    pause = threading.Event()
    while True:
        value = condition()
        if value or proc.now() > deadline:
            return value
        pause.wait(_LOOK)


@dataclass(slots=True)
class Evidence:
    """Where what is told about a violation comes from."""

    ground: Ground
    daemons: list[DaemonLife]

    def of(self, instance: str, more: Iterable[str] = ()) -> tuple[str, ...]:
        lines = [*self.ground.journals.evidence(instance), *more]
        for daemon in self.daemons[-2:]:
            lines += daemon.log_tail()
        return tuple(lines)


def list_instances(daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> dict[str, pb.ManagedInstance]:
    """What the daemon says there is. Raises DiedError."""
    try:
        reply = stub.ListInstances(pb.ListInstancesRequest(), timeout=PATIENCE)
    except grpc.RpcError as error:
        eventually(lambda: not daemon.alive(), _DYING)
        daemon.must_live()
        raise DiedError(f"the daemon does not answer: {error.code().name}") from error
    return {i.instance_id: i for i in reply.instances}


def state_of(said: pb.ManagedInstance) -> str:
    """The word for where an instance is said to stand."""
    return pb.NextAction.Name(said.next_action).removeprefix("NEXT_ACTION_").lower()
