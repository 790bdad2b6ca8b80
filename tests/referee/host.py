"""The host of a match: a folder with a site config, its agents, and unrelated processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from tests.referee import proc
from tests.referee.invariants import Breach, Invariant
from tests.referee.journals import Journals, signals
from tests.referee.record_forger import RecordForger

_AGENT = Path(__file__).with_name("agent.py")


class AgentKind(Enum):
    """The behaviour of an agent."""

    STEADY = "steady"
    CRASHER = "crasher"  # ends after a while, in many ways
    DEAF = "deaf"  # ignores INT and TERM
    # Forks three descendants outside of its session and process tree, two of them without environment.
    FORKER = "forker"
    WRITER = "writer"  # writes numbered lines to its output
    SLOW = "slow"  # has a probe, and becomes ready some time after the start


@dataclass(frozen=True, slots=True)
class Agent:
    """One instance of the site; reloads add and remove a `guest`."""

    instance: str
    kind: AgentKind
    guest: bool = False

    @property
    def descendants(self) -> int:
        """Number of descendants that the agent forks."""
        return 3 if self.kind is AgentKind.FORKER else 0


def make_agents(counts: Mapping[AgentKind, int], guests: int = 1) -> tuple[Agent, ...]:
    """Return `counts` agents of each kind, and steady guests."""
    agents = [Agent(f"{kind.value}-{n}", kind) for kind, count in counts.items() for n in range(count)]
    return (*agents, *(Agent(f"guest-{n}", AgentKind.STEADY, guest=True) for n in range(guests)))


class Host:
    """The files of one match, and the unrelated processes.

    `beat` is the time in s between two beats of an agent.
    """

    def __init__(self, folder: Path, agents: Sequence[Agent], beat: float = 0.05) -> None:
        self.folder = folder
        self.agents = tuple(agents)
        self.beat = beat
        self.file = folder / "site.yaml"
        self.socket = folder / "hm.sock"
        self.state_dir = folder / "state"
        self.journal_dir = folder / "journals"
        self.journal_dir.mkdir()
        self.journals = Journals(self.journal_dir)
        self._unrelated: list[tuple[subprocess.Popen[bytes], str]] = []
        self.forger: RecordForger | None = None
        self.write_site(guests=True)

    def write_site(self, *, guests: bool) -> None:
        """Write the site config atomically."""
        entries = [self._entry(agent) for agent in self.agents if guests or not agent.guest]
        site = {"hosts": {"localhost": {"agent-instances": entries}}}
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(site, sort_keys=False))
        os.replace(new, self.file)

    def command(self, agent: Agent) -> list[str]:
        """Return the command line of an agent."""
        script = [sys.executable, "-I", "-S", str(_AGENT)]
        return [*script, agent.kind.value, agent.instance, str(self.journal_dir), str(self.beat)]

    def _entry(self, agent: Agent) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "agent-class": agent.kind.value.capitalize(),
            "instance-id": agent.instance,
            "command": self.command(agent),
            "working-dir": str(self.folder),
            "env": {proc.SITE_MARKER: str(self.folder), proc.INSTANCE_MARKER: agent.instance},
            "restart": {"backoff": {"initial": 0.05, "factor": 1.5, "maximum": 0.3}},
            "stop-timeout": [0.3, 0.2] if agent.kind is AgentKind.DEAF else [2, 0.7],
        }
        match agent.kind:
            case AgentKind.SLOW:
                ready = self.journal_dir / f"{agent.instance}.ready"
                entry["ready"] = {"command": ["test", "-e", str(ready)], "interval": 0.05}
            case AgentKind.WRITER:
                entry["log"] = {"size": 256 * 1024, "keep": 1000}
        return entry

    # --- unrelated processes

    def start_unrelated_processes(self, count: int = 2) -> None:
        """Start processes with the command line, working directory and user of agents, outside the daemon.

        The processes journal every signal.
        """
        for n in range(count):
            name = f"unrelated-{n}"
            journal = self.folder / name
            env = {
                **os.environ,
                "REFEREE_UNRELATED": str(journal),
                "HOSTMANAGER_RUN": f"unrelated.{n}",
                "HOSTMANAGER_INSTANCE_ID": self.agents[n].instance,
            }
            process = subprocess.Popen(
                self.command(self.agents[n]), cwd=self.folder, env=env,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._unrelated.append((process, name))
        self.forger = RecordForger(self.folder, self.state_dir, self._unrelated[0][0].pid)

    def check_unrelated_processes(self) -> None:
        """Raise a Breach if an unrelated process was signalled."""
        for process, name in self._unrelated:
            journal = self.folder / name
            text = journal.read_text() if journal.exists() else ""
            lines = [line for line in text.splitlines() if line.startswith("signalled")]
            if lines:
                numbers = [int(line.split("signal=")[1].split()[0]) for line in lines]
                raise Breach(Invariant.I7, f"{name} was sent {signals(numbers)}", lines)
            if process.poll() is not None:
                raise Breach(Invariant.I7, f"{name} was ended: {process.returncode}")

    def clear(self) -> None:
        """Kill all remaining processes."""
        if self.forger is not None:
            self.forger.close()
        for process, _ in self._unrelated:
            process.kill()
            process.wait()
        # Found by the folder in the command line, as some have no environment.
        while remaining := proc.with_argument(str(self.journal_dir)):
            for pid in remaining:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
