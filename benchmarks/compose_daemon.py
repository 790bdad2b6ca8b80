"""Our daemon with compose services, and a watcher of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from benchmarks.compose_services import Services, instance_id
from benchmarks.managers import PATIENCE, Daemon

SETTLE = 3.0  # s for the daemon, compose and the engine to come to rest


class ComposeDaemon(Daemon):
    """Our daemon with these services, down at first; restarts are delayed as by default."""

    def __init__(self, services: Services) -> None:
        options = ("--docker-compose", services.project.file, "--docker-compose-bin", services.program)
        super().__init__(services.count, options, services.engine.environment)

    def _instance(self, number: int) -> dict[str, Any]:
        return {"instance-id": instance_id(number), "agent-class": "Bench", "manage": "docker/down"}


@contextmanager
def running_daemon(services: Services) -> Iterator[tuple[ComposeDaemon, Watcher]]:
    """A daemon that has brought all of these up, and is at rest."""
    with ComposeDaemon(services) as daemon, Watcher(daemon) as watcher:
        daemon.start_all()
        watcher.until(watcher.all_up, "all to run")
        time.sleep(SETTLE)
        yield daemon, watcher


class Watcher:
    """All instances of a daemon as a `WatchStatus` over loopback TCP tells them."""

    def __init__(self, daemon: Daemon) -> None:
        self.instances: dict[str, pb.ManagedInstance] = {}
        self._channel = grpc.insecure_channel(daemon.address)
        stub = pb_grpc.HostManagerServiceStub(self._channel)
        self._stream = stub.WatchStatus(pb.WatchStatusRequest())
        self._messages = iter(self._stream)

    def until(self, holds: Callable[[], bool], what: str) -> float:
        """Read on until this holds of `instances`; the moment (s, CLOCK_MONOTONIC) when that was known."""
        deadline = time.monotonic() + PATIENCE
        moment = time.monotonic()
        while not holds():
            if moment > deadline:  # looked at with each heartbeat, at the latest
                raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
            message = next(self._messages)
            moment = time.monotonic()
            if message.WhichOneof("update") == "snapshot":
                self._keep(message.snapshot.instances)
            else:
                self._keep(message.delta.instances)
        return moment

    def all_up(self) -> bool:
        """Whether all are up, as the engine has it too."""
        return bool(self.instances) and all(map(is_up, self.instances.values()))

    def all_gone(self) -> bool:
        """Whether all are down, and no container of any is left."""
        return bool(self.instances) and all(map(is_gone, self.instances.values()))

    def _keep(self, instances: Iterable[pb.ManagedInstance]) -> None:
        self.instances.update((instance.instance_id, instance) for instance in instances)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.cancel()
        self._channel.close()


def is_up(instance: pb.ManagedInstance) -> bool:
    """It is up, and its container runs."""
    return instance.next_action == pb.NEXT_ACTION_UP and instance.compose_service.running


def is_gone(instance: pb.ManagedInstance) -> bool:
    """It is down, and has no container."""
    return instance.next_action == pb.NEXT_ACTION_DOWN and not instance.compose_service.container_found
