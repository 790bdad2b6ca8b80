"""The agent classes of an installed OCS, and how its launcher starts an instance of one."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

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
    except Exception as error:
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
    nothing again until a plugin comes, goes or changes its version."""
    plugins = frozenset(
        (point.name, point.value, point.dist.version if point.dist is not None else "")
        for point in entry_points(group=GROUP)
    )
    if not plugins:
        return OcsAgents()
    try:
        return _ask(plugins)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        return OcsAgents(problems=(f"the agent classes of the installed OCS cannot be listed: {error}",))


@functools.lru_cache(maxsize=4)
def _ask(plugins: frozenset[tuple[str, str, str]]) -> OcsAgents:
    # What is raised is not cached: the next one to ask tries again.
    answer = subprocess.run(
        [sys.executable, "-P", "-c", _ASK],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=TIMEOUT,
        check=True,
    )
    classes, problems = json.loads(answer.stdout)
    return OcsAgents(frozenset(classes), tuple(problems))


def ocs_command(instance_id: str, site_file: Path, host: str, working_dir: Path) -> tuple[str, ...]:
    """What OCS's own HostManager runs. The launcher finds the arguments of the agent in the file itself."""
    return (
        sys.executable, "-m", "ocs.agent_cli",
        "--instance-id", instance_id,
        "--site-file", str(site_file),
        "--site-host", host,
        "--working-dir", str(working_dir),
    )  # fmt: skip
