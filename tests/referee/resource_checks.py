"""Checks of what the daemon itself keeps: zombies, descriptors, threads, and its hands off strangers."""

from __future__ import annotations

from collections.abc import Callable

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.daemons import DaemonLife
from tests.referee.ground import Ground
from tests.referee.looking import PATIENCE, eventually, list_instances
from tests.referee.samples import Holdings, holdings
from tests.referee.verdict import Invariant, Violation

# Threads that gRPC has as it likes, and ends when they were idle for some 20 s: the soak waits for that.
_OF_GRPC = "event_engine"
_MANY = 100
_RUN = "pidfd"  # a run that is up is held by one
_RESTARTS = 3  # of everything, that may each leave more


class Household:
    """I5, I6 and I7. `connections` is how many clients may still be connected at rest."""

    def __init__(self, ground: Ground, connections: int) -> None:
        self._ground = ground
        self._connections = connections
        self._baseline: Holdings | None = None

    def check(self, daemon: DaemonLife) -> None:
        """No zombies, no signals to strangers."""
        self._ground.check_strangers()
        if not eventually(lambda: not proc.zombies_of(daemon.pid)):
            zombies = proc.zombies_of(daemon.pid)
            raise Violation(Invariant.I5, f"the daemon does not reap {zombies}", daemon.log_tail())

    def check_holdings(self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> None:
        """With no watchers there is nothing but what the first daemon had. Raises DiedError too."""
        if self._baseline is None:
            self._baseline = self._beside_runs(daemon, stub)[0]
            self._baseline.descriptors["socket"] += self._connections
            self._baseline.threads[_OF_GRPC] += _MANY
        more: dict[str, int] = {}

        def at_baseline() -> bool:
            nonlocal more
            assert self._baseline is not None
            found, unaccounted = self._beside_runs(daemon, stub)
            more = found.beyond(self._baseline)
            if unaccounted:
                more[_RUN] = unaccounted
            return not more

        if not eventually(at_baseline):
            text = f"after {PATIENCE:g} s at rest the daemon has more than one that was just started: {more}"
            raise Violation(Invariant.I6, text, daemon.log_tail())

    def check_restarts(
        self, daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub, restart_all: Callable[[], None]
    ) -> None:
        """Runs that end and begin leave nothing behind. `restart_all` comes back when all is as before."""
        more: dict[str, int] = {}

        def as_before() -> bool:
            nonlocal more
            more = self._beside_runs(daemon, stub)[0].beyond(before)
            return not more

        # What is begun when it is first needed, such as the thread of the probes, comes once; leaks go on.
        for _ in range(_RESTARTS):
            before, _unaccounted = self._beside_runs(daemon, stub)
            before.threads[_OF_GRPC] += _MANY
            restart_all()
            if eventually(as_before):
                return
        text = f"restarting everything left the daemon with more than before, each time: {more}"
        raise Violation(Invariant.I6, text, daemon.log_tail())

    @staticmethod
    def _beside_runs(daemon: DaemonLife, stub: pb_grpc.HostManagerServiceStub) -> tuple[Holdings, int]:
        """What it holds but for one descriptor for each run, and how many of those there are too many."""
        listed = list_instances(daemon, stub)
        runs = sum(said.next_action == pb.NEXT_ACTION_UP for said in listed.values())
        found = holdings(daemon.pid)
        held = found.descriptors.pop(_RUN, 0)
        return found, max(0, held - runs)
