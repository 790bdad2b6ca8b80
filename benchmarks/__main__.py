"""Benchmarks of the figures in docs/explanation/benchmarks.md, with peers measured in the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import replace
from typing import Protocol

# Set before the import of grpc: the benchmarks start children while gRPC runs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# An installed program has its bytecode; without write access Python would compile it at every start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from benchmarks import (
    cold_start,
    compose_all,
    compose_idle,
    compose_kill,
    compose_neighbours,
    growth,
    hostile,
    reading,
    recovery,
    standing,
    subscribers,
    supervision,
)
from benchmarks.table import NotHereError, Row, machine_load, render


class Benchmark(Protocol):
    """One benchmark."""

    def __call__(self, *, quick: bool) -> list[Row]:
        """Measure, with fewer rounds if `quick`, and return the results."""


BENCHMARKS: dict[str, Benchmark] = {
    "kill-one": supervision.kill_one,
    "kill-all": supervision.kill_all,
    "exit": subscribers.exits,
    "crowd": supervision.crowded,
    "start-stop": supervision.start_and_stop,
    "cold-start": cold_start.cold_start,
    "growth": growth.growth,
    "recovery": recovery.recovery,
    "idle": standing.idle,
    "asking": standing.asking,
    "watchers": reading.watchers,
    "log": reading.log,
    "hostile": hostile.hostile,
    "compose-idle": compose_idle.idle,
    "compose-kill": compose_kill.kill,
    "compose-all": compose_all.up_and_stop,
    "compose-neighbours": compose_neighbours.neighbours,
}


def parts(word: str) -> list[str]:
    """Return the benchmarks that an argument of --only selects.

    The argument is a name, or the first word of several names, such as `compose`.
    """
    found = [name for name in BENCHMARKS if name == word or name.startswith(f"{word}-")]
    if not found:
        raise argparse.ArgumentTypeError(f"no benchmark {word!r} (known: {', '.join(BENCHMARKS)})")
    return found


def main() -> int:
    """Run the selected benchmarks and print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run fewer rounds, for a first impression")
    parser.add_argument(
        "--only", action="extend", type=parts, metavar="PART",
        help=f"run one benchmark, or all with this first word; may be repeated: {', '.join(BENCHMARKS)}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows: list[Row] = []
    skipped: list[str] = []
    for name in arguments.only or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            load = machine_load()
            rows += [replace(row, load=load) for row in BENCHMARKS[name](quick=arguments.quick)]
        except NotHereError as error:
            skipped.append(f"{name} is skipped: {error}")
            print(skipped[-1], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        cores = len(os.sched_getaffinity(0))
        print(f"Linux {platform.release()}, Python {platform.python_version()}, {cores} cores\n")
        print(render(rows))
        for line in skipped:  # repeated, as readers may keep only the table
            print(f"\n{line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
