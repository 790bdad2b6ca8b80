"""Checks of the output of writers: no line is lost, repeated or misplaced (I9)."""

from __future__ import annotations

import re
from collections import Counter

from tests.referee.host import AgentKind, Host
from tests.referee.invariants import Breach, Invariant

_LINE = re.compile(r"(\d+\.\d+) (\d+) \.+")


def check_output(host: Host) -> None:
    """Raise a Breach for wrong output. Call after an orderly end of the daemon, which ends rotation."""
    for agent in host.agents:
        if agent.kind is AgentKind.WRITER:
            _check(host, agent.instance, _all_output(host, agent.instance))


def _all_output(host: Host, instance: str) -> str:
    """Return all output of an instance, oldest first, as lines may cross files."""
    live = host.state_dir / "logs" / f"{instance}.log"
    archives = [file for file in live.parent.glob(f"{live.name}.*") if file.suffix[1:].isdigit()]
    old = sorted(archives, key=lambda file: -int(file.suffix[1:]))
    return b"".join(file.read_bytes() for file in (*old, live) if file.exists()).decode()


def _check(host: Host, instance: str, text: str) -> None:
    counts: Counter[str] = Counter()
    last = ""
    for line in text.splitlines():
        written = _LINE.fullmatch(line)
        if written is None:  # the interpreter's traceback, when a stop comes before the agent blocks signals
            continue
        writer, number = written.groups()
        if writer != last and counts[writer]:
            raise Breach(Invariant.I9, f"lines of {instance} {writer} are not contiguous at {number}")
        counts[writer] += 1
        if int(number) != counts[writer]:
            what = f"output of {instance} {writer}: line {number} stands where {counts[writer]} should"
            raise Breach(Invariant.I9, what)
        last = writer
    for name, process in host.journals.processes.items():
        if process.instance == instance and counts[str(name)] < process.lines:
            what = f"{process} wrote {process.lines} lines, but {counts[str(name)]} are in the files"
            raise Breach(Invariant.I9, what, host.journals.evidence(instance))
