"""Cgroups (version 2) for tests."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from hostmanager_server.drivers.process.cgroup_delegation import parse_mounts

# Starts a process that outlives the agent, without parent, descriptors or environment, in a separate session.
# The process writes its pid to the file that the first argument names. HIDE may remove the mark of the run.
ESCAPE = """
import os, resource, sys, time
if os.fork() == 0:
    os.setsid()
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent: time.sleep(0.001)
        HIDE
        os.closerange(0, 1024)
        os.execve(sys.executable, [sys.executable, "-c", SLEEP, sys.argv[1]], {})
    os._exit(0)
os.wait()
THEN
"""
SLEEP = "import os, sys, time; open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); "
SLEEP += "os.rename(sys.argv[1] + '.new', sys.argv[1]); time.sleep(1000)"


def escape(then: str = "time.sleep(1000)", *, marked: bool = False) -> str:
    """Return code that lets a process escape, and then runs the code `then`.

    If `marked`, the process keeps the resource limit that is the mark of its run.
    """
    hide = "pass" if marked else "resource.setrlimit(10, (7, 7))"
    return f"SLEEP = {SLEEP!r}\n" + ESCAPE.replace("HIDE", hide).replace(
        "THEN", f"while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n{then}"
    )


def cgroup_or_reason() -> Path | str:
    """Create a cgroup and return its path, or the reason for having none.

    Raises OSError if creating the cgroup fails although cgroups are writable.
    """
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    if not mounts:
        return "no cgroup2 file system is mounted"
    top = Path(mounts[0].point)
    if not os.access(top, os.W_OK):
        return f"the cgroups in {top} cannot be written"
    group = top / f"hostmanager-test-{secrets.token_hex(4)}"
    group.mkdir()
    return group


def remove_cgroup(group: Path) -> None:
    """Kill all processes in the cgroup, and remove the cgroup."""
    (group / "cgroup.kill").write_text("1")
    pause = threading.Event()
    while populated(group):
        pause.wait(0.01)
    for below in sorted(group.rglob("*/"), reverse=True):
        below.rmdir()
    group.rmdir()


def processes_in(group: Path) -> list[int]:
    """Return the pids in the cgroup and in the cgroups below."""
    files = [group / "cgroup.procs", *group.rglob("*/cgroup.procs")]
    return [int(pid) for file in files for pid in file.read_text().split()]


def populated(group: Path) -> bool:
    """Return whether the cgroup or any below has processes.

    The result stays true until shortly after their end.
    """
    return "populated 1" in (group / "cgroup.events").read_text()


def groups_in(folder: Path) -> list[Path]:
    """Return the cgroups directly below a folder; empty if the folder does not exist."""
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.exists() else []
