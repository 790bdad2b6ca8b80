"""Checks of the output of writers: no line is lost, doubled or out of place (I9)."""

from __future__ import annotations

import re
from collections import Counter

from tests.referee.ground import Ground, Kind
from tests.referee.verdict import Invariant, Violation

_LINE = re.compile(r"(\d+\.\d+) (\d+) \.+")


def check_output(ground: Ground) -> None:
    """Raises a Violation. To be called when nobody rotates any more: the daemon has ended in order."""
    for agent in ground.agents:
        if agent.kind is Kind.WRITER:
            _check(ground, agent.instance, _all_output(ground, agent.instance))


def _all_output(ground: Ground, instance: str) -> str:
    """What it wrote, oldest first: a line may begin in one file and go on in the next."""
    live = ground.state_dir / "logs" / f"{instance}.log"
    old = sorted(live.parent.glob(f"{live.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return b"".join(file.read_bytes() for file in (*old, live) if file.exists()).decode()


def _check(ground: Ground, instance: str, text: str) -> None:
    counts: Counter[str] = Counter()
    last = ""
    for line in text.splitlines():
        written = _LINE.fullmatch(line)
        if written is None:  # of the interpreter, when a stop comes before the agent listens
            continue
        who, number = written.groups()
        if who != last and counts[who]:
            raise Violation(Invariant.I9, f"lines of {instance} {who} are torn apart at {number}")
        counts[who] += 1
        if int(number) != counts[who]:
            what = f"output of {instance} {who}: line {number} stands where {counts[who]} should"
            raise Violation(Invariant.I9, what)
        last = who
    for name, life in ground.journals.lives.items():
        if life.instance == instance and counts[str(name)] < life.lines:
            what = f"{life} wrote {life.lines} lines, and {counts[str(name)]} are there"
            raise Violation(Invariant.I9, what, ground.journals.evidence(instance))
