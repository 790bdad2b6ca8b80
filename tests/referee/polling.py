"""Polling and evidence, as all checks use them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonProcess, DiedError
from tests.referee.host import Host

T = TypeVar("T")

# The longest time, in s, that a required change may take on a busy machine; success ends every wait early.
PATIENCE = 30.0
_DYING = 5.0  # s from the last answer of a daemon to its end
_INTERVAL = 0.01  # s between two polls

# The states of an instance without processes.
NOTHING_RUNS = (pb.NEXT_ACTION_DOWN, pb.NEXT_ACTION_START_AT, pb.NEXT_ACTION_START)


def poll(condition: Callable[[], T], patience: float = PATIENCE) -> T:
    """Return the condition's value once true, or its last value after `patience` s."""
    deadline = proc.now() + patience
    pause = threading.Event()
    while True:
        value = condition()
        if value or proc.now() > deadline:
            return value
        pause.wait(_INTERVAL)


@dataclass(slots=True)
class Evidence:
    """The sources of evidence for a violation."""

    host: Host
    daemons: list[DaemonProcess]

    def of(self, instance: str, more: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the journal of an instance, more lines, and the logs of the last daemons."""
        lines = [*self.host.journals.evidence(instance), *more]
        for daemon in self.daemons[-2:]:
            lines += daemon.log_tail()
        return tuple(lines)


def list_instances(
    daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub
) -> dict[str, pb.ManagedInstance]:
    """Return the instances that the daemon lists. Raises DiedError."""
    try:
        reply = stub.ListInstances(pb.ListInstancesRequest(), timeout=PATIENCE)
    except grpc.RpcError as error:
        poll(lambda: not daemon.alive(), _DYING)
        daemon.require_alive()
        raise DiedError(f"the daemon does not answer: {error.code().name}") from error
    return {i.instance_id: i for i in reply.instances}


def state_of(listed: pb.ManagedInstance) -> str:
    """Return the published state of an instance as a word."""
    return pb.NextAction.Name(listed.next_action).removeprefix("NEXT_ACTION_").lower()
