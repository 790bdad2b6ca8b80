"""The agent classes of an installed OCS, and the command line of its launcher."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from hostmanager.values import dataclass

from hostmanager_server.linux import child_signals, sd_notify

GROUP = "ocs.plugins"
TIMEOUT = 30.0  # s; the import of the plugins of a large site takes seconds

# The classes of a plugin are known only after its import, which must not run in the daemon's process. Plugins
# may print during the import, so the answer has a copy of standard output for itself.
_LIST_CLASSES = f"""
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
        problems.append(f"cannot load the OCS plugin {{plugin.name!r}}: {{why}}")
json.dump([sorted(classes), problems], answer)
answer.close()
"""


@dataclass(frozen=True, slots=True)
class OcsAgents:
    """The classes of the plugins of OCS, and the reasons why some may be missing."""

    classes: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def ocs_agents() -> OcsAgents:
    """Return the agent classes of the installed OCS; empty if there is no OCS.

    The first call takes seconds. A later call takes no time, unless a plugin was installed, removed or
    changed its version, or cannot be loaded.
    """
    from importlib.metadata import entry_points

    plugins = frozenset(
        (point.name, point.value, point.dist.version if point.dist is not None else "")
        for point in entry_points(group=GROUP)
    )
    if not plugins:
        return OcsAgents()
    try:
        return _list_classes(plugins)
    except _IncompleteError as error:
        return error.found
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        why = f"cannot list the agent classes of the installed OCS: {_reason(error)}"
        return OcsAgents(problems=(why,))


class _IncompleteError(Exception):
    """Some plugins cannot be loaded; `found` has the classes of the others."""

    def __init__(self, found: OcsAgents) -> None:
        super().__init__(*found.problems)
        self.found = found


def _reason(error: Exception) -> str:
    """Return the reason in one line; the texts of subprocess repeat the whole program."""
    match error:
        case subprocess.TimeoutExpired():
            return f"importing its plugins took more than {TIMEOUT:g} s"
        case subprocess.CalledProcessError(returncode=code) if code < 0:
            return f"importing its plugins ended with signal {-code}"
        case subprocess.CalledProcessError(returncode=code):
            return f"importing its plugins ended with exit code {code}"
    return str(error)


@functools.lru_cache(maxsize=4)
def _list_classes(plugins: frozenset[tuple[str, str, str]]) -> OcsAgents:
    # lru_cache keeps no exceptions: the next call tries again.
    with child_signals.unblocked():
        answer = subprocess.run(
            [sys.executable, "-P", "-c", _LIST_CLASSES],
            env=sd_notify.without_private_variables(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=True,
        )
    classes, problems = json.loads(answer.stdout)
    found = OcsAgents(frozenset(classes), tuple(problems))
    if found.problems:
        raise _IncompleteError(
            found
        )  # the missing module may be installed without a new version of the plugin
    return found


def ocs_command(instance_id: str, site_file: Path, host: str, working_dir: Path) -> tuple[str, ...]:
    """Return the command that OCS's own HostManager runs.

    The launcher reads the arguments of the agent from the site config.
    """
    return (
        sys.executable, "-m", "ocs.agent_cli",
        "--instance-id", instance_id,
        "--site-file", str(site_file),
        "--site-host", host,
        "--working-dir", str(working_dir),
    )  # fmt: skip
