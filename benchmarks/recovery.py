"""Benchmark of the recovery of a daemon after a crash or an upgrade."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import grpc
from hostmanager.v1 import host_manager_pb2 as pb

from benchmarks.managers import PATIENCE, HostManager, bring_up
from benchmarks.table import Row

_AGENTS = 100
_POLL_INTERVAL = 0.002  # s


def recovery(*, quick: bool) -> list[Row]:
    """Measure kill -9 with a new start, and an upgrade in place, with 100 agents.

    Each ends when the new daemon lists all agents as up, under their former pids.
    """
    rounds = 3 if quick else 15
    started, upgraded = [], []
    with HostManager(_AGENTS) as ours:
        pids = set(bring_up(ours, _AGENTS).values())
        for _ in range(rounds):
            started.append(_until_in_control(ours, pids, ours.crash_and_start))
            upgraded.append(_until_in_control(ours, pids, lambda: _upgrade(ours)))
    floor = [_interpreter() for _ in range(rounds)]
    return [
        Row("kill -9 of the daemon, start to all 100 under control, p50", "ms", median(started),
            {"floor": median(floor)}, reach=1000, note="floor: Python imports gRPC and its stubs"),
        Row("the same, worst", "ms", max(started), {"floor": max(floor)}, reach=1000),
        Row("upgrade in place, last answer to all 100 under control, p50", "ms", median(upgraded),
            {"floor": median(floor)}, reach=1000),
    ]  # fmt: skip


def _until_in_control(ours: HostManager, pids: set[int], begin: Callable[[], None]) -> float:
    """Return the time from the old daemon's last answer to the new daemon's first, in ms."""
    epoch = ours.stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE).manager.epoch
    begin()
    began = time.monotonic()
    while True:
        try:
            status = ours.stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE)
        except grpc.RpcError:
            pass
        else:
            if status.manager.epoch == epoch:
                began = time.monotonic()
            else:
                break
        time.sleep(_POLL_INTERVAL)
    moment = time.monotonic()
    listed = ours.stub.ListInstances(pb.ListInstancesRequest(page_size=1000), timeout=PATIENCE).instances
    assert {i.process.pid for i in listed if i.next_action == pb.NEXT_ACTION_UP} == pids
    return (moment - began) * 1e3


def _upgrade(ours: HostManager) -> None:
    ours.stub.Upgrade(pb.UpgradeRequest(), timeout=PATIENCE)


def _interpreter() -> float:
    """Return the time of a Python process that only imports gRPC and the stubs, in ms."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "from hostmanager.v1 import host_manager_pb2_grpc"], check=True)
    return (time.monotonic() - began) * 1e3
