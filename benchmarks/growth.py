"""Benchmarks of costs that may grow with the number of instances."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from benchmarks.agents import static_child
from benchmarks.managers import PATIENCE, HostManager, bring_up
from benchmarks.table import Row

COUNTS = (100, 1000, 5000)


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a daemon with some number of agents, all running."""

    start: float  # CPU of the daemon for each start, ms
    resident: float  # MB (10^6 bytes)
    status: float  # CPU of one GetStatus, ms
    reload: float  # CPU of one reload of the unchanged site config, s


def growth(*, quick: bool) -> list[Row]:
    """Measure starts, memory, GetStatus and reloads at 100, 1,000 and 5,000 instances."""
    costs = {count: _costs(count, 20 if quick else 100) for count in COUNTS}
    least, most = COUNTS[0], COUNTS[-1]

    def row(what: str, unit: str, figure: str, count: int, **options: Any) -> Row:
        others = {f"at {other}": getattr(costs[other], figure) for other in COUNTS if other < count}
        return Row(f"{what}, {count} instances", unit, getattr(costs[count], figure), others, **options)

    rows = []
    for count in COUNTS:
        last = count == most
        of_least = f"at {least}"
        rows += [
            row("CPU of a start", "ms", "start", count, bounds={of_least: 1.2} if count > least else {}),
            row("resident memory", "MB", "resident", count, reach=90 if last else None),
            row("CPU of GetStatus", "ms", "status", count, bounds={of_least: 5.0} if last else {}),
            row("CPU of a reload, file unchanged", "s", "reload", count, reach=0.1 if last else None),
        ]
    return rows


def _costs(count: int, rounds: int) -> Costs:
    with HostManager(count, child=static_child()) as ours:
        before = daemon_cpu(ours.pid)
        bring_up(ours, count)
        _wait_idle(ours.pid)
        start = (daemon_cpu(ours.pid) - before) / count * 1e3
        status = _cpu_of(ours.pid, rounds, ours.status)
        reload = _cpu_of(ours.pid, 3, lambda: _reload(ours))
        return Costs(start, resident(ours.pid), status * 1e3, reload)


def _reload(ours: HostManager) -> None:
    ours.stub.Update(pb.UpdateRequest(reload_config=True), timeout=PATIENCE)


def _cpu_of(pid: int, rounds: int, call: Callable[[], None]) -> float:
    """Return the daemon's CPU for one call, in s, without the first call."""
    call()
    _wait_idle(pid)
    before = daemon_cpu(pid)
    for _ in range(rounds):
        call()
    _wait_idle(pid)
    return (daemon_cpu(pid) - before) / rounds


def _wait_idle(pid: int) -> None:
    """Wait until the daemon has worked less than 1 % of half a second; a reload goes on after its answer."""
    deadline = time.monotonic() + PATIENCE
    before = daemon_cpu(pid)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        present = daemon_cpu(pid)
        if present - before < 0.005:
            return
        before = present
    raise TimeoutError(f"the daemon did not become idle in {PATIENCE:g} s")


def helpers(pid: int) -> list[int]:
    """Return the daemon's own child processes: those that run the daemon's program, as no agent does."""
    own = os.readlink(f"/proc/{pid}/exe")
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            try:
                if os.readlink(f"/proc/{child}/exe") == own:
                    found.append(int(child))
            except OSError:  # ended
                continue
    return found


def daemon_cpu(pid: int) -> float:
    """Return the CPU of the daemon and of its own helper processes so far, in s."""
    nanoseconds = 0
    for each in (pid, *helpers(pid)):
        for task in os.listdir(f"/proc/{each}/task"):
            nanoseconds += int(Path(f"/proc/{each}/task/{task}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def resident(pid: int) -> float:
    """Return the resident memory of the daemon and its helpers, in MB (10^6 bytes)."""
    total = 0
    for each in (pid, *helpers(pid)):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total * 1024 / 1e6
