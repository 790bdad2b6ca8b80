"""Journals of agents, as the agents wrote them, and the processes they show."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.referee import proc
from tests.referee.invariants import Breach, Invariant
from tests.referee.proc import ProcessIdentity

_LINES_KEPT = 40  # lines per journal, as evidence
_MAIN_PROCESSES_KEPT = 50  # per instance: more than a round has


@dataclass(slots=True, eq=False)
class AgentProcess:
    """One process of an instance. Times are in s since boot."""

    instance: str
    identity: ProcessIdentity
    role: str  # `main`, or the name of a descendant
    run: str
    started: float
    last: float  # time of the last journal line
    beats: int = 0
    lines: int = 0  # lines of output
    signals: list[int] = field(default_factory=list)  # received signals
    ended: float | None = None  # the process journaled its end
    exited_by_itself: bool = False  # the process ended without a signal
    killed: float | None = None  # the referee killed the process
    gone: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the main process of its run."""
        return self.role == "main"

    def alive(self) -> bool:
        """Return whether the kernel has the process now; a dead process stays dead."""
        if not self.gone and not proc.is_alive(self.identity):
            self.gone = True
        return not self.gone

    def dead_before(self, moment: float) -> bool:
        """Return whether the referee had killed the process before `moment`."""
        return self.killed is not None and self.killed < moment

    def __str__(self) -> str:
        return f"{self.instance} {self.role} {self.identity} (run {self.run})"


class Journals:
    """All journals of a folder, read as they grow.

    A journal alone may show a violation: a lock that another process held, or a missing beat.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[str, int] = {}
        self._tails: dict[str, deque[str]] = {}
        self.processes: dict[ProcessIdentity, AgentProcess] = {}
        self._current: dict[str, list[AgentProcess]] = {}  # by instance; processes not yet known as dead
        self._main_processes: dict[str, deque[AgentProcess]] = {}  # by instance; the latest main processes
        self._runs: dict[tuple[str, str], AgentProcess] = {}  # main processes by instance and run
        self._pids: dict[int, list[AgentProcess]] = {}
        self._violation: Breach | None = None
        self.starts: deque[AgentProcess] = deque()  # unchecked starts, in the order of reading
        self.exits: deque[AgentProcess] = deque()  # unchecked exits, in the order of detection

    def read(self) -> None:
        """Read all new journal lines. Raise a Breach that the lines show."""
        for entry in sorted(os.listdir(self._folder)):
            if entry.endswith(".journal"):
                self._read(entry)
        if self._violation is not None:
            violation, self._violation = self._violation, None
            raise violation

    def alive(self, instance: str) -> list[AgentProcess]:
        """Return the live processes of the instance, main process and descendants."""
        living = []
        for process in self._current.get(instance, []):
            if process.alive():
                living.append(process)
            else:
                self.exits.append(process)
        self._current[instance] = living
        return list(living)

    def main_process(self, instance: str) -> AgentProcess | None:
        """Return the live main process of the instance."""
        return next((process for process in self.alive(instance) if process.is_main), None)

    def main_process_of(self, process: AgentProcess) -> AgentProcess | None:
        """Return the main process of the run of a descendant."""
        return self._runs.get((process.instance, process.run))

    def by_pid(self, pid: int) -> list[AgentProcess]:
        """Return all processes that ever had this pid."""
        return self._pids.get(pid, [])

    def alive_throughout(self, instance: str, since: float, until: float) -> Iterator[AgentProcess]:
        """Yield the main processes of an instance that certainly lived from `since` to `until`."""
        for process in self._main_processes.get(instance, ()):
            last = process.last if process.ended is None else process.ended
            if process.started < since and last > until:
                yield process

    def evidence(self, instance: str) -> tuple[str, ...]:
        """Return the last lines of an instance's journal, with the latest beats only."""
        lines = list(self._tails.get(instance, ()))
        lines += [
            f"beat {process.identity} {process.last:.6f} n={process.beats}"
            for process in self._current.get(instance, [])
        ]
        return tuple(f"journal {instance}: {line}" for line in lines)

    def _read(self, entry: str) -> None:
        with open(self._folder / entry, "rb") as file:
            file.seek(self._offsets.get(entry, 0))
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offsets[entry] = self._offsets.get(entry, 0) + whole
        instance = entry.removesuffix(".journal")
        tail = self._tails.setdefault(instance, deque(maxlen=_LINES_KEPT))
        for line in data[:whole].decode().splitlines():
            if not line.startswith("beat"):
                tail.append(line)
            self._handle_line(instance, line)

    def _handle_line(self, instance: str, line: str) -> None:
        word, text, time, *rest = line.split()
        values = dict(pair.split("=", 1) for pair in rest)
        identity, moment = ProcessIdentity.parse(text), float(time)
        if word == "started":
            process = AgentProcess(instance, identity, values["role"], values["run"], moment, moment)
            self.processes[identity] = process
            self._current.setdefault(instance, []).append(process)
            self._pids.setdefault(identity.pid, []).append(process)
            if process.is_main:
                self._main_processes.setdefault(instance, deque(maxlen=_MAIN_PROCESSES_KEPT)).append(process)
                self._runs[instance, process.run] = process
            self.starts.append(process)
            return
        process = self.processes[identity]
        process.last = moment
        match word:
            case "beat":
                if int(values["n"]) != process.beats + 1:
                    text = f"a beat of {process} is missing: {process.beats} was followed by {values['n']}"
                    self._record_violation(Invariant.I9, text, instance)
                process.beats = int(values["n"])
                process.lines = int(values["lines"])
            case "signalled":
                process.signals.append(int(values["signal"]))
            case "ended":
                process.ended = moment
            case "leaving":
                process.ended, process.exited_by_itself = moment, True
            case "locked_out":
                self._check_lock(process, values["lock"], values["holder"])

    def _check_lock(self, process: AgentProcess, lock: str, holder: str) -> None:
        invariant = Invariant.I1 if lock.endswith(".main.lock") else Invariant.I8
        self._record_violation(
            invariant, f"{process} found that {holder} still held {lock}", process.instance
        )

    def _record_violation(self, invariant: Invariant, what: str, instance: str) -> None:
        if self._violation is None:
            self._violation = Breach(invariant, what, self.evidence(instance))


def signals(numbers: list[int]) -> str:
    """Return the names of signals."""
    return ", ".join(signal.Signals(number).name for number in numbers)
