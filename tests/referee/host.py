"""The ground of a match: a folder with a site config, its agents, and strangers who look like agents."""

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
from tests.referee.forger import Forger
from tests.referee.lives import Journals, signals
from tests.referee.verdict import Invariant, Violation

_AGENT = Path(__file__).with_name("agent.py")


class Kind(Enum):
    """What an agent is like."""

    STEADY = "steady"
    CRASHER = "crasher"  # ends by itself, in many ways, after a while
    DEAF = "deaf"  # does not listen to INT and TERM
    FORKER = (
        "forker"  # leaves two descendants behind that have left session and parent, one without environment
    )
    WRITER = "writer"  # writes numbered lines to its output
    SLOW = "slow"  # is ready some time after its start, as its probe finds out


@dataclass(frozen=True, slots=True)
class Agent:
    """One instance of the site. `guest`: reloads add and remove it."""

    instance: str
    kind: Kind
    guest: bool = False

    @property
    def descendants(self) -> int:
        return 2 if self.kind is Kind.FORKER else 0


def cast(counts: Mapping[Kind, int], guests: int = 1) -> tuple[Agent, ...]:
    """So many agents of each kind, and guests, which are steady."""
    agents = [Agent(f"{kind.value}-{n}", kind) for kind, count in counts.items() for n in range(count)]
    return (*agents, *(Agent(f"guest-{n}", Kind.STEADY, guest=True) for n in range(guests)))


class Ground:
    """Everything of one match that stands in files, and the strangers. `beat`: s between two beats."""

    def __init__(self, folder: Path, agents: Sequence[Agent], beat: float = 0.05) -> None:
        self.folder = folder
        self.agents = tuple(agents)
        self.beat = beat
        self.file = folder / "site.yaml"
        self.socket = folder / "hm.sock"
        self.state_dir = folder / "state"
        self.lives_dir = folder / "lives"
        self.lives_dir.mkdir()
        self.journals = Journals(self.lives_dir)
        self._strangers: list[tuple[subprocess.Popen[bytes], str]] = []
        self.forger: Forger | None = None
        self.write_site(guests=True)

    def write_site(self, *, guests: bool) -> None:
        """Put the site config there, at once."""
        entries = [self._entry(agent) for agent in self.agents if guests or not agent.guest]
        site = {"hosts": {"localhost": {"agent-instances": entries}}}
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(site, sort_keys=False))
        os.replace(new, self.file)

    def command(self, agent: Agent) -> list[str]:
        script = [sys.executable, "-I", "-S", str(_AGENT)]
        return [*script, agent.kind.value, agent.instance, str(self.lives_dir), str(self.beat)]

    def _entry(self, agent: Agent) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "agent-class": agent.kind.value.capitalize(),
            "instance-id": agent.instance,
            "command": self.command(agent),
            "working-dir": str(self.folder),
            "env": {proc.SITE_MARKER: str(self.folder), proc.INSTANCE_MARKER: agent.instance},
            "restart": {"backoff": {"initial": 0.05, "factor": 1.5, "maximum": 0.3}},
            "stop-timeout": [0.3, 0.2] if agent.kind is Kind.DEAF else [2, 0.7],
        }
        match agent.kind:
            case Kind.SLOW:
                ready = self.lives_dir / f"{agent.instance}.ready"
                entry["ready"] = {"command": ["test", "-e", str(ready)], "interval": 0.05}
            case Kind.WRITER:
                entry["log"] = {"size": 256 * 1024, "keep": 1000}
        return entry

    # --- strangers

    def bring_strangers(self, count: int = 2) -> None:
        """Processes with the command line, the working directory and the user of agents, that are nobody's
        business. They write down every signal they get."""
        for n in range(count):
            name = f"stranger-{n}"
            journal = self.folder / name
            env = {
                **os.environ,
                "REFEREE_BYSTANDER": str(journal),
                "HOSTMANAGER_RUN": f"somebody-else.{n}",
                "HOSTMANAGER_INSTANCE_ID": self.agents[n].instance,
            }
            process = subprocess.Popen(
                self.command(self.agents[n]), cwd=self.folder, env=env,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._strangers.append((process, name))
        self.forger = Forger(self.folder, self.state_dir, self._strangers[0][0].pid)

    def check_strangers(self) -> None:
        """Raises a Violation when one was signalled."""
        for process, name in self._strangers:
            journal = self.folder / name
            text = journal.read_text() if journal.exists() else ""
            heard = [line for line in text.splitlines() if line.startswith("heard")]
            if heard:
                numbers = [int(line.split("signal=")[1].split()[0]) for line in heard]
                raise Violation(Invariant.I7, f"{name} was sent {signals(numbers)}", heard)
            if process.poll() is not None:
                raise Violation(Invariant.I7, f"{name} was ended: {process.returncode}")

    def clear(self) -> None:
        """Leave nothing behind that runs."""
        if self.forger is not None:
            self.forger.close()
        for process, _ in self._strangers:
            process.kill()
            process.wait()
        # By the folder in their command line: those without an environment too.
        while left := proc.with_argument(str(self.lives_dir)):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
