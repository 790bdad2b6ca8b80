"""How a native agent's command is found: the first of four ways that knows its class."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from hostmanager_server.config.ocs import OcsAgents, ocs_agents, ocs_command
from hostmanager_server.config.reader import hint_at, shown

GROUP = "hostmanager.agents"


def installed_agents() -> dict[str, EntryPoint]:
    """The entry points of the group `hostmanager.agents`, by agent class."""
    return {point.name: point for point in entry_points(group=GROUP)}


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """What to run, and where that was found."""

    argv: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Launchers:
    """What there is to start agents with on this machine. `classes` are the commands under `agent-classes`;
    `file` and `working_dir`, absolute paths, are what OCS is told."""

    file: Path
    working_dir: Path
    classes: Mapping[str, tuple[str, ...]]
    installed: Mapping[str, EntryPoint] = field(default_factory=installed_agents)
    ocs: OcsAgents = field(default_factory=ocs_agents)

    def find(
        self,
        host: str,
        instance_id: str,
        agent_class: str,
        command: tuple[str, ...] | None,
        arguments: Sequence[str],
    ) -> LaunchCommand | None:
        """The command of an instance of a host; `command` is its own, when it has one."""
        if command is not None:
            return LaunchCommand((*command, *arguments), "command")
        if agent_class in self.classes:
            return LaunchCommand((*self.classes[agent_class], *arguments), "agent-classes")
        if agent_class in self.installed:
            argv = (*_python(self.installed[agent_class]), *arguments)
            return LaunchCommand(argv, f"entry point {GROUP}")
        if agent_class in self.ocs.classes:
            return LaunchCommand(ocs_command(instance_id, self.file, host, self.working_dir), "ocs")
        return None

    def unknown(self, agent_class: str) -> str:
        """Why an instance of this class cannot be started, and what to do about it."""
        known = sorted({*self.classes, *self.installed, *self.ocs.classes})
        hint = f" ({hint_at(agent_class, known)})" if known else ""
        return (
            f"agent class {shown(agent_class)} has no command{hint}; "
            "give the instance a `command`, or list the class under `agent-classes`"
        )


def _python(point: EntryPoint) -> tuple[str, ...]:
    """What runs an entry point as an installed script would, with no modules from the working directory."""
    if not point.attr:
        return sys.executable, "-P", "-m", point.module
    first = point.attr.partition(".")[0]
    code = f"import sys; from {point.module} import {first}; sys.exit({point.attr}())"
    return sys.executable, "-P", "-c", code
