"""What a manager costs while nothing happens, and what it takes to ask it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from statistics import median

from benchmarks.managers import HostManager, Manager, bring_up
from benchmarks.peers import Supervisord
from benchmarks.table import Row, percentile


def idle(quick: bool) -> list[Row]:
    """CPU and wake-ups of every thread over a quiet while; resident memory at 500."""
    seconds = 5 if quick else 30
    rows = []
    for count in (100, 500, 1000):
        cpu: dict[str, float] = {}
        wakes: dict[str, float] = {}
        own_wakes: dict[str, float] = {}
        memory: dict[str, float] = {}
        own: dict[str, float] = {}
        for make in (HostManager, Supervisord):
            if make is Supervisord and count > 500:
                continue
            with make(count) as manager:
                bring_up(manager, count)
                time.sleep(2.0)
                memory[manager.name] = _memory(manager.pid, "Rss")
                own[manager.name] = _memory(manager.pid, "Pss")
                name = manager.name
                cpu[name], wakes[name], own_wakes[name] = _quiet(manager.pid, seconds)
        rows.append(
            Row(f"idle, {count} children, {seconds} s: wake-ups of all threads", "1/s",
                wakes.pop("ours"), wakes, reach=0)
        )  # fmt: skip
        rows.append(
            Row("of these, of the program's own threads", "1/s", own_wakes.pop("ours"), own_wakes, reach=0,
                note="the others are gRPC's native pool")
        )  # fmt: skip
        rows.append(
            Row(f"idle, {count} children, {seconds} s: CPU", "% of a core", cpu.pop("ours"), cpu, reach=0)
        )
        if count == 500:
            rows.append(
                Row("resident memory of the daemon, 500 children", "MB", memory.pop("ours"), memory, reach=70)
            )
            rows.append(Row("the same, its share of shared pages only (Pss)", "MB", own.pop("ours"), own))
    return rows


def _quiet(pid: int, seconds: float) -> tuple[float, float, float]:
    """CPU (% of a core) and context switches a second, of all threads and of the program's own."""
    cpu, switches, own = _cpu(pid), _switches(pid), _switches(pid, own=True)
    time.sleep(seconds)
    return (
        (_cpu(pid) - cpu) / seconds * 100,
        (_switches(pid) - switches) / seconds,
        (_switches(pid, own=True) - own) / seconds,
    )


def _cpu(pid: int) -> float:
    """Seconds of CPU so far, from the scheduler's own nanoseconds (sum over the threads)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _switches(pid: int, *, own: bool = False) -> int:
    """Voluntary and involuntary context switches so far; `own`: without threads that a library has named."""
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
    """Megabytes (10^6 bytes) of `Rss` or `Pss`."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024 / 1e6
    raise LookupError(f"the kernel does not tell the {what} of process {pid}")


def asking(quick: bool) -> list[Row]:
    """The status of 100 instances: the call, and the whole command."""
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
        Row("the status command at 100 instances, whole", "ms", whole.pop("ours"), whole, reach=200),
    ]


def _call(manager: Manager) -> float:
    began = time.monotonic()
    manager.status()
    return (time.monotonic() - began) * 1e3


def _command(manager: Manager) -> float:
    began = time.monotonic()
    done = subprocess.run(manager.status_command(), stdout=subprocess.PIPE, check=True)
    took = (time.monotonic() - began) * 1e3
    if b"i0099" not in done.stdout:  # a command that failed would be a fast one
        raise RuntimeError(f"the status command of {manager.name} does not list the instances")
    return took
