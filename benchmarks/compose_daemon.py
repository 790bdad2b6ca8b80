"""A HostManager daemon with compose services, and a watcher of its status."""

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
from benchmarks.managers import PATIENCE, HostManagerDaemon

SETTLE = 3.0  # s for the daemon, compose and the engine to become idle


class ComposeDaemon(HostManagerDaemon):
    """A daemon with compose services that are down at first, and the default restart delay."""

    def __init__(self, services: Services) -> None:
        options = ("--docker-compose", services.project.file, "--docker-compose-bin", services.program)
        super().__init__(services.count, options, services.engine.environment)

    def _instance(self, number: int) -> dict[str, Any]:
        return {
            "instance-id": instance_id(number),
            "agent-class": "Bench",
            "manage": "docker/down",
            "up-after": 0,
        }


@contextmanager
def running_daemon(services: Services) -> Iterator[tuple[ComposeDaemon, ComposeWatcher]]:
    """Provide an idle daemon with all services up."""
    with ComposeDaemon(services) as daemon, ComposeWatcher(daemon) as watcher:
        daemon.start_all()
        watcher.until(watcher.all_up, "all to run")
        time.sleep(SETTLE)
        yield daemon, watcher


class ComposeWatcher:
    """The instances of a daemon, from a WatchStatus stream over loopback TCP."""

    def __init__(self, daemon: HostManagerDaemon) -> None:
        self.instances: dict[str, pb.ManagedInstance] = {}
        self._channel = grpc.insecure_channel(daemon.address)
        stub = pb_grpc.HostManagerServiceStub(self._channel)
        self._stream = stub.WatchStatus(pb.WatchStatusRequest())
        self._messages = iter(self._stream)

    def until(self, holds: Callable[[], bool], what: str) -> float:
        """Read messages until `holds`, and return the time (s, CLOCK_MONOTONIC) of the last message.

        Raises TimeoutError after PATIENCE s.
        """
        deadline = time.monotonic() + PATIENCE
        moment = time.monotonic()
        while not holds():
            if moment > deadline:  # heartbeats make sure of a regular check
                raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
            message = next(self._messages)
            moment = time.monotonic()
            if message.WhichOneof("update") == "snapshot":
                self._store(message.snapshot.instances)
            else:
                self._store(message.delta.instances)
        return moment

    def all_up(self) -> bool:
        """Return whether all instances are up, and their containers run."""
        return bool(self.instances) and all(map(is_up, self.instances.values()))

    def all_gone(self) -> bool:
        """Return whether all instances are down, and none has a container."""
        return bool(self.instances) and all(map(is_gone, self.instances.values()))

    def _store(self, instances: Iterable[pb.ManagedInstance]) -> None:
        self.instances.update((instance.instance_id, instance) for instance in instances)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.cancel()
        self._channel.close()


def is_up(instance: pb.ManagedInstance) -> bool:
    """Return whether an instance is up, and its container runs."""
    return instance.next_action == pb.NEXT_ACTION_UP and instance.compose_service.running


def is_gone(instance: pb.ManagedInstance) -> bool:
    """Return whether an instance is down, and has no container."""
    return instance.next_action == pb.NEXT_ACTION_DOWN and not instance.compose_service.container_found
