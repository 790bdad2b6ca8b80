"""Checks of the daemon's resources: zombies, descriptors and threads, and signals to other processes."""

from __future__ import annotations

from collections.abc import Callable

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonProcess
from tests.referee.host import Host
from tests.referee.invariants import Breach, Invariant
from tests.referee.polling import PATIENCE, list_instances, poll
from tests.referee.samples import Resources, held_resources

# gRPC starts these threads at will, and ends idle ones after some 20 s; the soak waits for their end.
_OF_GRPC = "event_engine"
_MANY = 100
_RUN = "pidfd"  # the daemon holds one per run
_RESTARTS = 3  # restarts of all instances; a leak adds resources in each


class ResourceChecks:
    """Checks of the invariants I5, I6 and I7.

    `connections` is the number of clients that may stay connected at rest.
    """

    def __init__(self, host: Host, connections: int) -> None:
        self._host = host
        self._connections = connections
        self._baseline: Resources | None = None

    def check(self, daemon: DaemonProcess) -> None:
        """Raise a Breach for zombies, or signals to unrelated processes."""
        self._host.check_unrelated_processes()
        if not poll(lambda: not proc.zombies_of(daemon.pid)):
            zombies = proc.zombies_of(daemon.pid)
            raise Breach(Invariant.I5, f"the daemon does not reap {zombies}", daemon.log_tail())

    def check_resources(self, daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub) -> None:
        """Raise a Breach if a daemon at rest holds more than the first one. Raises DiedError."""
        if self._baseline is None:
            self._baseline = self._without_runs(daemon, stub)[0]
            self._baseline.descriptors["socket"] += self._connections
            self._baseline.threads[_OF_GRPC] += _MANY
        more: dict[str, int] = {}

        def at_baseline() -> bool:
            nonlocal more
            assert self._baseline is not None
            found, unaccounted = self._without_runs(daemon, stub)
            more = found.beyond(self._baseline)
            if unaccounted:
                more[_RUN] = unaccounted
            return not more

        if not poll(at_baseline):
            text = f"after {PATIENCE:g} s at rest the daemon holds more than a new daemon: {more}"
            raise Breach(Invariant.I6, text, daemon.log_tail())

    def check_restarts(
        self, daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub, restart_all: Callable[[], None]
    ) -> None:
        """Raise a Breach if restarts leak resources; `restart_all` waits for all instances."""
        more: dict[str, int] = {}

        def as_before() -> bool:
            nonlocal more
            more = self._without_runs(daemon, stub)[0].beyond(before)
            return not more

        # Resources created at first use, such as the probe thread, appear once; leaks repeat.
        for _ in range(_RESTARTS):
            before, _unaccounted = self._without_runs(daemon, stub)
            before.threads[_OF_GRPC] += _MANY
            restart_all()
            if poll(as_before):
                return
        text = f"each restart of all instances left the daemon with more resources: {more}"
        raise Breach(Invariant.I6, text, daemon.log_tail())

    @staticmethod
    def _without_runs(daemon: DaemonProcess, stub: pb_grpc.HostManagerServiceStub) -> tuple[Resources, int]:
        """Return the resources without run descriptors, and the number of surplus run descriptors."""
        instances = list_instances(daemon, stub)
        runs = sum(listed.next_action == pb.NEXT_ACTION_UP for listed in instances.values())
        found = held_resources(daemon.pid)
        held = found.descriptors.pop(_RUN, 0)
        return found, max(0, held - runs)
