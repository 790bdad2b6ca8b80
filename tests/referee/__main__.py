"""`python -m tests.referee`: kills the daemon again and again, or soaks it, and looks what went wrong."""

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

# Before grpc is imported: children are started beside it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# An installed program has its bytecode; one that may not write it compiles itself at every start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from tests.referee import soak
from tests.referee.become import become
from tests.referee.daemons import COMMAND, DiedError, mutated
from tests.referee.match import Match
from tests.referee.mutant import Mutant
from tests.referee.rounds import Rounds
from tests.referee.soak import Soak
from tests.referee.verdict import Violation

EVERY = 10  # rounds between two lines of progress


def seconds(text: str) -> float:
    """A duration such as 90, 90s, 10m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.referee", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="how many (default: 20)")
    parser.add_argument("--soak", type=seconds, metavar="DURATION", help="instead of rounds: 90s, 10m, 1h")
    parser.add_argument("--seed", type=int, help="what every decision is drawn from (default: the time)")
    parser.add_argument("--user", help="the user to play as; root only (default: who runs this)")
    parser.add_argument(
        "--mutant", choices=[mutant.value for mutant in Mutant], help="a daemon that is wrong in this way"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON at the end")
    parser.add_argument("--keep", action="store_true", help="leave the folder of the match behind")
    arguments = parser.parse_args()
    if arguments.user is not None:
        try:
            become(arguments.user, "tests.referee", without_user(sys.argv[1:]))
        except (LookupError, OSError) as error:
            parser.error(f"cannot play as {arguments.user}: {error}")
    if arguments.seed is None:
        arguments.seed = int(time.time())
    return play(arguments)


def play(arguments: argparse.Namespace) -> int:
    """Exit code 1 when something was wrong."""
    folder = Path(tempfile.mkdtemp(prefix="referee-"))
    began = time.monotonic()
    program = mutated(Mutant(arguments.mutant)) if arguments.mutant else COMMAND
    repeat = f"python -m tests.referee --seed {arguments.seed}"
    repeat += f" --mutant {arguments.mutant}" if arguments.mutant else ""
    summary: dict[str, object] = {"seed": arguments.seed, "user": os.getuid()}
    say(f"seed {arguments.seed}, as user {os.getuid()}, in {folder}")
    course: Rounds | Soak
    if arguments.soak is not None:
        match = Match(
            folder, arguments.seed, program=program,
            counts=soak.CAST, beat=soak.BEAT, operators=soak.OPERATORS, pause=soak.PAUSE,
        )  # fmt: skip
        course = Soak(match, arguments.soak, say)
        repeat += f" --soak {arguments.soak:g}s"
    else:
        match = Match(folder, arguments.seed, program=program)
        course = Rounds(match)
    try:
        if isinstance(course, Soak):
            course.play()
        else:
            play_rounds(course, arguments.rounds)
    except (Violation, DiedError) as found:
        where = ""
        if isinstance(course, Rounds):
            where = f", round {course.tally.rounds}"
            repeat += f" --rounds {course.tally.rounds + 1}"
        say(f"seed {arguments.seed}{where}: {found}\nrepeat: {repeat}")
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
    began = time.monotonic()
    for number in range(count):
        rounds.play(number)
        if (number + 1) % EVERY == 0:
            tally = rounds.tally
            say(
                f"{number + 1} rounds in {time.monotonic() - began:.0f} s, nothing wrong: "
                f"{tally.kills} kills, {tally.points.total()} deaths at failpoints, "
                f"{tally.agents} agents killed, {tally.answers.total()} requests"
            )
    rounds.finish()


def without_user(words: list[str]) -> list[str]:
    """The arguments but for --user."""
    pairs = zip(words, ["", *words], strict=False)
    return [w for w, before in pairs if "--user" not in (w, before) and not w.startswith("--user=")]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
