"""`python -m benchmarks`: the promises of docs/explanation/benchmarks.md, measured with their peers."""

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

from benchmarks import (
    compose_all,
    compose_idle,
    compose_kill,
    hostile,
    reading,
    recovery,
    standing,
    supervision,
)
from benchmarks.table import NotHereError, Row, render

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "kill-one": supervision.kill_one,
    "kill-all": supervision.kill_all,
    "start-stop": supervision.start_and_stop,
    "recovery": recovery.recovery,
    "idle": standing.idle,
    "asking": standing.asking,
    "watchers": reading.watchers,
    "log": reading.log,
    "hostile": hostile.hostile,
    "compose-idle": compose_idle.idle,
    "compose-kill": compose_kill.kill,
    "compose-all": compose_all.up_and_stop,
}


def parts(word: str) -> list[str]:
    """The benchmark of this name, or all whose names begin with the word, as in `compose`."""
    found = [name for name in BENCHMARKS if name == word or name.startswith(f"{word}-")]
    if not found:
        raise argparse.ArgumentTypeError(f"no part {word!r}; there are {', '.join(BENCHMARKS)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a figure to quote")
    parser.add_argument(
        "--only", action="extend", type=parts, metavar="PART",
        help=f"this one, or all that begin with this word; may be repeated: {', '.join(BENCHMARKS)}",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows: list[Row] = []
    left_out: list[str] = []
    for name in arguments.only or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            rows += BENCHMARKS[name](arguments.quick)
        except NotHereError as error:
            left_out.append(f"{name} is left out: {error}")
            print(left_out[-1], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
    else:
        cores = len(os.sched_getaffinity(0))
        print(f"Linux {platform.release()}, Python {platform.python_version()}, {cores} cores\n")
        print(render(rows))
        for line in left_out:  # again: the table is kept, and what it lacks is to be known
            print(f"\n{line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
