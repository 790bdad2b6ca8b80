"""The agent classes of an installed OCS, and how its launcher starts an instance of one."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from hostmanager_server.linux import sd_notify

GROUP = "ocs.plugins"
TIMEOUT = 30.0  # s; importing the plugins of a large site takes some

# Plugins tell their classes only to who imports them, which is no business of the daemon's own process. They
# may print while they are imported: the answer has standard output for itself.
_ASK = f"""
import json, os, sys
from importlib.metadata import entry_points
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
classes, problems = set(), []
for plugin in entry_points(group={GROUP!r}):
    try:
        classes.update(map(str, plugin.load().agents))
    except (Exception, SystemExit) as error:
        why = f"{{type(error).__name__}}: {{error}}"
        problems.append(f"the OCS plugin {{plugin.name!r}} cannot be loaded: {{why}}")
json.dump([sorted(classes), problems], answer)
answer.close()
"""


@dataclass(frozen=True, slots=True)
class OcsAgents:
    """The classes that the plugins of OCS offer, and why some of them may be missing."""

    classes: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def ocs_agents() -> OcsAgents:
    """What the installed OCS knows; nothing when there is none. Takes seconds for the first time, and
    nothing again until a plugin comes, goes or changes its version, or as long as one cannot be loaded."""
    plugins = frozenset(
        (point.name, point.value, point.dist.version if point.dist is not None else "")
        for point in entry_points(group=GROUP)
    )
    if not plugins:
        return OcsAgents()
    try:
        return _ask(plugins)
    except _IncompleteError as error:
        return error.found
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        why = f"the agent classes of the installed OCS cannot be listed: {_reason(error)}"
        return OcsAgents(problems=(why,))


class _IncompleteError(Exception):
    """Some plugins cannot be loaded: what the others offer."""

    def __init__(self, found: OcsAgents) -> None:
        super().__init__(*found.problems)
        self.found = found


def _reason(error: Exception) -> str:
    """In a line: subprocess's own texts repeat the whole program."""
    match error:
        case subprocess.TimeoutExpired():
            return f"importing its plugins took more than {TIMEOUT:g} s"
        case subprocess.CalledProcessError(returncode=code) if code < 0:
            return f"importing its plugins ended with signal {-code}"
        case subprocess.CalledProcessError(returncode=code):
            return f"importing its plugins ended with exit code {code}"
    return str(error)


@functools.lru_cache(maxsize=4)
def _ask(plugins: frozenset[tuple[str, str, str]]) -> OcsAgents:
    # What is raised is not cached: the next one to ask tries again.
    answer = subprocess.run(
        [sys.executable, "-P", "-c", _ASK],
        env=sd_notify.of_others(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=True,
    )
    classes, problems = json.loads(answer.stdout)
    found = OcsAgents(frozenset(classes), tuple(problems))
    if found.problems:
        raise _IncompleteError(found)  # what is missing may be installed without a new version of the plugin
    return found


def ocs_command(instance_id: str, site_file: Path, host: str, working_dir: Path) -> tuple[str, ...]:
    """What OCS's own HostManager runs. The launcher finds the arguments of the agent in the file itself."""
    return (
        sys.executable, "-m", "ocs.agent_cli",
        "--instance-id", instance_id,
        "--site-file", str(site_file),
        "--site-host", host,
        "--working-dir", str(working_dir),
    )  # fmt: skip
