"""Benchmark of the way of an exit to a subscriber."""

from __future__ import annotations

import os
import signal
import time
from statistics import median

from benchmarks.agents import static_child
from benchmarks.managers import Manager, bring_up
from benchmarks.peers import here, with_ours
from benchmarks.peers_fifo import S6
from benchmarks.peers_pm2 import Pm2
from benchmarks.table import Row, percentile


def exits(*, quick: bool) -> list[Row]:
    """Measure kill -9 of one of 100, until a subscriber in another process has the exit."""
    rounds = 20 if quick else 100
    peers, note = here(S6, Pm2)
    times: dict[str, list[float]] = {}
    for make in with_ours(peers):
        with make(100, child=static_child()) as manager:
            times[manager.name] = _exits(manager, bring_up(manager, 100), rounds)
    p50 = {name: median(found) for name, found in times.items()}
    p99 = {name: percentile(found, 0.99) for name, found in times.items()}
    return [
        Row("kill -9 to the exit at a subscriber, 100 managed, p50", "ms", p50.pop("ours"), p50,
            bounds={"s6": 1.2, "pm2": 0.7}, note=note),
        Row("the same, p99", "ms", p99.pop("ours"), p99),
    ]  # fmt: skip


def _exits(manager: Manager, pids: dict[str, int], rounds: int) -> list[float]:
    names = sorted(pids)
    found = []
    for number in range(rounds):
        name = names[number % len(names)]
        with manager.exits(name) as wait:
            time.sleep(0.05)  # an idle manager
            began = time.monotonic()
            os.kill(pids[name], signal.SIGKILL)
            found.append((wait(1) - began) * 1e3)
        ((_, pids[name], _),) = manager.reports.read(1)
    return found
