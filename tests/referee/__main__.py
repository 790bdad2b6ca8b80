"""Crash tests of the daemon: kill or soak a daemon under load, and check its invariants."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

# Before the import of grpc, as this process starts children.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# The user may be unable to write bytecode, and then compiles every module at every start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from tests.referee import soak
from tests.referee.daemons import COMMAND, DiedError, command_of
from tests.referee.invariants import Breach
from tests.referee.match import Match
from tests.referee.mutant import Mutant
from tests.referee.rounds import Rounds
from tests.referee.soak import Soak
from tests.referee.switch_user import become

EVERY = 10  # rounds between two progress lines


def seconds(text: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 10m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"cannot read {text!r} as a duration; write 90s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.referee", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="number of rounds (default: 20)")
    parser.add_argument(
        "--soak", type=seconds, metavar="DURATION", help="soak test instead of rounds: 90s, 10m, 1h"
    )
    parser.add_argument("--seed", type=int, help="seed of all random choices (default: the time)")
    parser.add_argument("--user", help="user to run as, for root only (default: the present user)")
    parser.add_argument(
        "--mutant", choices=[mutant.value for mutant in Mutant], help="test a daemon with this bug"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON at the end")
    parser.add_argument("--keep", action="store_true", help="keep the working directory")
    arguments = parser.parse_args()
    if arguments.user is not None:
        try:
            become(arguments.user, "tests.referee", without_user(sys.argv[1:]))
        except (LookupError, OSError) as error:
            parser.error(f"cannot run as {arguments.user}: {error}")
    if arguments.seed is None:
        arguments.seed = int(time.time())
    return play(arguments)


def play(arguments: argparse.Namespace) -> int:
    """Run the rounds or the soak; return 1 after a violation, else 0."""
    folder = Path(tempfile.mkdtemp(prefix="referee-"))
    began = time.monotonic()
    program = command_of(Mutant(arguments.mutant)) if arguments.mutant else COMMAND
    repeat = f"python -m tests.referee --seed {arguments.seed}"
    repeat += f" --mutant {arguments.mutant}" if arguments.mutant else ""
    summary: dict[str, object] = {"seed": arguments.seed, "user": os.getuid()}
    log(f"seed {arguments.seed}, as user {os.getuid()}, in {folder}")
    course: Rounds | Soak
    if arguments.soak is not None:
        match = Match(
            folder, arguments.seed, program=program,
            counts=soak.AGENTS, beat=soak.BEAT, operators=soak.OPERATORS, pause=soak.PAUSE,
        )  # fmt: skip
        course = Soak(match, arguments.soak, log)
        repeat += f" --soak {arguments.soak:g}s"
    else:
        match = Match(folder, arguments.seed, program=program)
        course = Rounds(match)
    try:
        if isinstance(course, Soak):
            course.play()
        else:
            play_rounds(course, arguments.rounds)
    except (Breach, DiedError) as found:
        where = ""
        if isinstance(course, Rounds):
            where = f", round {course.tally.rounds}"
            repeat += f" --rounds {course.tally.rounds + 1}"
        log(f"seed {arguments.seed}{where}: {found}\nrepeat: {repeat}")
        summary["violation"] = str(found)
    finally:
        match.close()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    summary.update(course.as_dict(), seconds=round(time.monotonic() - began, 1))
    if arguments.json:
        print(json.dumps(summary, indent=2))
    elif isinstance(course, Soak) and "violation" not in summary:
        print(course.table())
    return 1 if "violation" in summary else 0


def play_rounds(rounds: Rounds, count: int) -> None:
    """Play rounds and log progress."""
    began = time.monotonic()
    for number in range(count):
        rounds.play(number)
        if (number + 1) % EVERY == 0:
            tally = rounds.tally
            log(
                f"{number + 1} rounds in {time.monotonic() - began:.0f} s without a violation: "
                f"{tally.kills} kills, {tally.points.total()} deaths at failpoints, "
                f"{tally.agents} agents killed, {tally.answers.total()} requests"
            )
    rounds.finish()


def without_user(words: list[str]) -> list[str]:
    """Return the arguments without --user."""
    pairs = zip(words, ["", *words], strict=False)
    return [w for w, before in pairs if "--user" not in (w, before) and not w.startswith("--user=")]


def log(text: str) -> None:
    """Write a progress line to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
