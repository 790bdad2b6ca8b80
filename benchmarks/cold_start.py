"""Benchmark of the start of a manager until its first answer."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.peers import MakeManager, Supervisord, here, with_ours
from benchmarks.table import Row


def cold_start(*, quick: bool) -> list[Row]:
    """Measure a manager of one agent, down, from the start of its process to its first answer."""
    rounds = 5 if quick else 15
    peers, note = here(Supervisord)
    times = {make.name: [_start(make) for _ in range(rounds)] for make in with_ours(peers)}
    times["python"] = [_python() for _ in range(rounds)]
    p50 = {name: median(found) for name, found in times.items()}
    text = "python: the interpreter alone"
    return [
        Row("cold start to the first answer, p50", "ms", p50.pop("ours"), p50, bounds={"supervisord": 1.5},
            note=f"{text}; {note}" if note else text)
    ]  # fmt: skip


def _start(make: MakeManager) -> float:
    with make(1) as manager:
        return (manager.first_answer - manager.began) * 1e3


def _python() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return (time.monotonic() - began) * 1e3
