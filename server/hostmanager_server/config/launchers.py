"""How a native agent's command is found: the first of four ways that knows its class."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hostmanager_server.config.reader import suggest

GROUP = "hostmanager.agents"
OCS_GROUP = "ocs.plugins"

# Lists the classes that OCS's plugins offer. They are known only to code that is imported, and that is no
# business of the daemon's own process.
_ASK_OCS = f"""
import json, sys
from importlib.metadata import entry_points
out = sys.stdout
sys.stdout = sys.stderr
names = set()
for plugin in entry_points(group={OCS_GROUP!r}):
    try:
        names.update(plugin.load().agents)
    except Exception as error:
        print(f"plugin {{plugin.name}}: {{error}}", file=sys.stderr)
json.dump(sorted(names), out)
"""
OCS_TIMEOUT = 30.0


def installed_agents() -> dict[str, EntryPoint]:
    """The entry points of the group `hostmanager.agents`, by agent class."""
    return {point.name: point for point in entry_points(group=GROUP)}


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, and where that was found."""

    argv: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Launchers:
    """What is installed, and where OCS is to look. `classes` are those under `agent-classes` that have a
    command."""

    file: Path
    host: str
    working_dir: Path
    classes: Mapping[str, tuple[str, ...]]
    entry_points: Mapping[str, EntryPoint] = field(default_factory=installed_agents)

    def find(
        self, instance_id: str, agent_class: str, command: tuple[str, ...] | None, arguments: Sequence[str]
    ) -> Command | None:
        """The command of an instance; `command` is its own, when it has one."""
        if command is not None:
            return Command((*command, *arguments), "command")
        if agent_class in self.classes:
            return Command((*self.classes[agent_class], *arguments), "agent-classes")
        if agent_class in self.entry_points:
            argv = (sys.executable, *_run(self.entry_points[agent_class]), *arguments)
            return Command(argv, f"entry point {GROUP}")
        if agent_class in ocs_classes():
            return Command(self._ocs(instance_id), "ocs")  # which reads the arguments from the file itself
        return None

    def unknown(self, agent_class: str) -> str:
        """Why an instance of this class cannot be started, and what to do about it."""
        known = sorted({*self.classes, *self.entry_points, *ocs_classes()})
        listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
        hint = suggest(agent_class, known) or f"known: {listed or 'none'}"
        return (
            f"agent class {agent_class!r} has no command ({hint}); "
            "give the instance a `command`, or list the class under `agent-classes`"
        )

    def _ocs(self, instance_id: str) -> tuple[str, ...]:
        return (
            sys.executable, "-m", "ocs.agent_cli",
            "--instance-id", instance_id,
            "--site-file", str(self.file),
            "--site-host", self.host,
            "--working-dir", str(self.working_dir),
        )  # fmt: skip


def _run(point: EntryPoint) -> tuple[str, ...]:
    if not point.attr:
        return "-m", point.module
    function = point.attr.split(".")[0]
    return "-c", f"import sys; from {point.module} import {function}; sys.exit({point.attr}())"


def ocs_classes() -> frozenset[str]:
    """The agent classes that an installed OCS knows; none when there is no OCS."""
    plugins = tuple(sorted((point.name, point.value) for point in entry_points(group=OCS_GROUP)))
    return _ask_ocs(plugins) if plugins else frozenset()


@functools.lru_cache(maxsize=4)
def _ask_ocs(plugins: tuple[tuple[str, str], ...]) -> frozenset[str]:
    # Once for each set of plugins: importing them takes seconds.
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_OCS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=OCS_TIMEOUT,
            check=True,
        )
        return frozenset(json.loads(answer.stdout))
    except (subprocess.SubprocessError, OSError, ValueError):
        return frozenset()
