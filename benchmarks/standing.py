"""Benchmarks of an idle manager, and of its status."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.managers import HostManager, Manager, bring_up
from benchmarks.peers import Supervisord
from benchmarks.table import Row, percentile


def idle(*, quick: bool) -> list[Row]:
    """Measure CPU and wake-ups of an idle manager, and its resident memory with 500 children."""
    seconds = 5 if quick else 30
    rows = []
    for count in (100, 500, 1000):
        peers = (Supervisord,) if count <= 500 else ()
        costs = {make.name: _idle_cost(make, count, seconds) for make in (HostManager, *peers)}
        rows += _idle_rows(costs, count, seconds)
    return rows


@dataclass(frozen=True, slots=True)
class IdleCost:
    """The cost of an idle manager: rates of context switches (1/s), CPU (% of a core), memory (MB)."""

    switches: float
    own_switches: float  # without the threads of libraries
    cpu: float
    resident: float
    proportional: float  # counts only a share of shared pages


def _idle_cost(make: Callable[[int], Manager], count: int, seconds: float) -> IdleCost:
    with make(count) as manager:
        bring_up(manager, count)
        time.sleep(2.0)
        pid = manager.pid
        resident, proportional = _memory(pid, "Rss"), _memory(pid, "Pss")
        cpu, switches, own = _cpu(pid), _switches(pid), _switches(pid, own=True)
        time.sleep(seconds)
        return IdleCost(
            switches=(_switches(pid) - switches) / seconds,
            own_switches=(_switches(pid, own=True) - own) / seconds,
            cpu=(_cpu(pid) - cpu) / seconds * 100,
            resident=resident,
            proportional=proportional,
        )


def _idle_rows(costs: dict[str, IdleCost], count: int, seconds: float) -> list[Row]:
    def row(what: str, unit: str, figure: str, **options: Any) -> Row:
        peers = {name: getattr(cost, figure) for name, cost in costs.items()}
        return Row(what, unit, peers.pop("ours"), peers, **options)

    idle = f"idle, {count} children, {seconds} s"
    rows = [
        row(f"{idle}: wake-ups of all threads", "1/s", "switches", reach=0),
        row("of these, of the program's own threads", "1/s", "own_switches", reach=0,
            note="the others are gRPC's native pool"),
        row(f"{idle}: CPU", "% of a core", "cpu", reach=0),
    ]  # fmt: skip
    if count == 500:
        rows.append(row("resident memory of the daemon, 500 children", "MB", "resident", reach=55))
        rows.append(row("the same, its share of shared pages only (Pss)", "MB", "proportional"))
    return rows


def _cpu(pid: int) -> float:
    """Return the CPU time of all threads so far, in s, from the scheduler's nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _switches(pid: int, *, own: bool = False) -> int:
    """Return the context switches so far; `own` leaves out threads with another name than the program."""
    total = 0
    program = Path(f"/proc/{pid}/comm").read_text()
    for task in Path(f"/proc/{pid}/task").iterdir():
        if own and (task / "comm").read_text() != program:
            continue
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


def _memory(pid: int, what: str) -> float:
    """Return the `Rss` or `Pss` of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024 / 1e6
    raise LookupError(f"cannot read the memory of process {pid}: no {what} in smaps_rollup")


def asking(*, quick: bool) -> list[Row]:
    """Measure the status of 100 instances: the call, and the whole command."""
    rounds = 100 if quick else 500
    calls: dict[str, list[float]] = {}
    commands: dict[str, list[float]] = {}
    for make in (HostManager, Supervisord):
        with make(100) as manager:
            bring_up(manager, 100)
            calls[manager.name] = [_call(manager) for _ in range(rounds)]
            commands[manager.name] = [_command(manager) for _ in range(5 if quick else 15)]
    p50 = {name: median(times) for name, times in calls.items()}
    p99 = {name: percentile(times, 0.99) for name, times in calls.items()}
    whole = {name: median(times) for name, times in commands.items()}
    return [
        Row("GetStatus at 100 instances, one client, p50", "ms", p50.pop("ours"), p50, reach=2),
        Row("the same, p99", "ms", p99.pop("ours"), p99),
        Row(
            "the status command at 100 instances, whole",
            "ms",
            whole.pop("ours"),
            whole,
            bounds={"supervisord": 0.2},
        ),
    ]


def _call(manager: Manager) -> float:
    began = time.monotonic()
    manager.status()
    return (time.monotonic() - began) * 1e3


def _command(manager: Manager) -> float:
    began = time.monotonic()
    done = subprocess.run(manager.status_command(), stdout=subprocess.PIPE, check=True)
    took = (time.monotonic() - began) * 1e3
    if b"i0099" not in done.stdout:  # a failed command would be fast
        raise RuntimeError(f"the status command of {manager.name} does not list the instances")
    return took
