"""Benchmark of the CPU time for tracking idle compose services."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.compose_daemon import SETTLE, running_daemon
from benchmarks.compose_neighbour import STANDING, Neighbour
from benchmarks.compose_peer import NAME, Polling
from benchmarks.compose_services import Services, services
from benchmarks.table import Row


def idle(*, quick: bool) -> list[Row]:
    """Measure the CPU time of the daemon, and of polling as OCS does, with all their children."""
    seconds, polling_seconds = (10.0, 5.0) if quick else (60.0, 20.0)
    rows = []
    for count in (1, 10, 50):
        with services(count) as load, running_daemon(load) as (daemon, _):
            before = tree_cpu(daemon.pid)
            time.sleep(seconds)
            ours = (tree_cpu(daemon.pid) - before) * 60 / seconds
            peers = {NAME: _polling_cpu(load, polling_seconds)}
        what = f"idle cost of tracking {count} compose service{'s' if count > 1 else ''}"
        rows.append(Row(what, "CPU s/min", ours, peers, reach=0.1))
    return [*rows, _beside_a_neighbour(seconds)]


def _beside_a_neighbour(seconds: float) -> Row:
    """Measure the daemon with 10 services, while another project's tests run on the same engine."""
    with (
        services(10) as load,
        running_daemon(load) as (daemon, _),
        Neighbour(load.engine) as neighbour,
    ):
        time.sleep(SETTLE)
        before, containers = tree_cpu(daemon.pid), neighbour.containers
        time.sleep(seconds)
        ours = (tree_cpu(daemon.pid) - before) * 60 / seconds
        rate = (neighbour.containers - containers) / seconds
    what = "idle cost of tracking 10 compose services beside a test suite of another project"
    note = f"{rate:.1f} containers/s come and go, {STANDING} more have a health check each second"
    return Row(what, "CPU s/min", ours, reach=0.1, note=note)


def _polling_cpu(load: Services, seconds: float) -> float:
    """Return CPU seconds a minute, over complete rounds for at least `seconds`."""
    with Polling(load) as polling:
        began, before = polling.next().moment, tree_cpu(polling.pid)
        while (now := polling.next().moment) - began < seconds:
            pass
        return (tree_cpu(polling.pid) - before) * 60 / (now - began)


def tree_cpu(pid: int) -> float:
    """Return the CPU time of a process, its reaped children and its present children, in s.

    The time of a process that is gone is 0.0, as its parent has that time already.
    """
    try:
        # Fields 14 to 17 are utime, stime, cutime and cstime. The name, field 2, may have spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields)) / os.sysconf("SC_CLK_TCK") + sum(map(tree_cpu, children))
