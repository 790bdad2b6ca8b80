"""The search for a native agent's command in four sources."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hostmanager.values import dataclass

from hostmanager_server.config.node_reader import hint_at, shown
from hostmanager_server.config.ocs import OcsAgents, ocs_agents, ocs_command

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "hostmanager.agents"


def installed_agents() -> dict[str, EntryPoint]:
    """Return the entry points of the group `hostmanager.agents`, by agent class."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """The command of an agent, and its source."""

    argv: tuple[str, ...]
    source: str


class Launchers:
    """The sources of commands on this machine, each read when an instance asks for the first time.

    `classes` has the commands under `agent-classes`. `file` and `working_dir` are absolute paths, which the
    command line of OCS's launcher contains.
    """

    def __init__(self, file: Path, working_dir: Path, classes: Mapping[str, tuple[str, ...]]) -> None:
        self.file = file
        self.working_dir = working_dir
        self.classes = classes
        self._report: Callable[[str], None] = lambda problem: None

    def __eq__(self, other: object) -> bool:
        """Return whether both find the same commands, by all sources that either has read."""
        if not isinstance(other, Launchers):
            return NotImplemented
        if (self.file, self.working_dir, self.classes) != (other.file, other.working_dir, other.classes):
            return False
        read = [source for source in ("installed", "ocs") if source in vars(self) or source in vars(other)]
        return all(getattr(self, source) == getattr(other, source) for source in read)

    __hash__ = None  # type: ignore[assignment]  # equality changes as sources are read

    @cached_property
    def installed(self) -> Mapping[str, EntryPoint]:
        """The installed entry points of agents, by agent class."""
        return installed_agents()

    @cached_property
    def ocs(self) -> OcsAgents:
        """The agent classes of the installed OCS."""
        agents = ocs_agents()
        for problem in agents.problems:
            self._report(problem)
        return agents

    def report_problems(self, report: Callable[[str], None]) -> None:
        """Call `report` with each reason why classes of OCS may be missing, once they are read."""
        self._report = report
        if "ocs" in vars(self):
            for problem in self.ocs.problems:
                report(problem)

    def find(
        self,
        host: str,
        instance_id: str,
        agent_class: str,
        command: tuple[str, ...] | None,
        arguments: Sequence[str],
    ) -> LaunchCommand | None:
        """Return the command of an instance, or None if no source has one.

        The sources in order: `command` of the instance itself, `agent-classes`, installed entry points, and
        the plugins of OCS.
        """
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
        """Return the reason why an instance of this class cannot start, and the remedy."""
        known = sorted({*self.classes, *self.installed, *self.ocs.classes})
        hint = f" ({hint_at(agent_class, known)})" if known else ""
        return (
            f"agent class {shown(agent_class)} has no command{hint}; "
            "give the instance a `command`, or list the class under `agent-classes`"
        )


def _python(point: EntryPoint) -> tuple[str, ...]:
    """Return a command that runs an entry point as an installed script does.

    Python imports no modules from the working directory (-P).
    """
    if not point.attr:
        return sys.executable, "-P", "-m", point.module
    first = point.attr.partition(".")[0]
    code = f"import sys; from {point.module} import {first}; sys.exit({point.attr}())"
    return sys.executable, "-P", "-c", code
