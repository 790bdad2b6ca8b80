"""`python -m benchmarks`: what docs/benchmarks.md promises, measured beside its peers in one run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable

# Before grpc is imported: children are started beside it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# An installed program has its bytecode; one that may not write it compiles itself at every start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from benchmarks import reading, standing, supervision
from benchmarks.table import Row, render

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "kill-one": supervision.kill_one,
    "kill-all": supervision.kill_all,
    "start-stop": supervision.start_and_stop,
    "idle": standing.idle,
    "asking": standing.asking,
    "watchers": reading.watchers,
    "log": reading.log,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure to quote")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.only or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += BENCHMARKS[name](arguments.quick)
    if arguments.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        cores = len(os.sched_getaffinity(0))
        print(f"Linux {platform.release()}, Python {platform.python_version()}, {cores} cores\n")
        print(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
