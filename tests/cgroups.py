"""Cgroups (version 2) for tests."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from hostmanager_server.drivers.process.cgroup_delegation import parse_mounts

# Leaves a process behind that has no parent, a session of its own, no descriptor and no environment, and
# writes its pid to the file that the first argument names.
ESCAPE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent: time.sleep(0.001)
        os.closerange(0, 1024)
        os.execve(sys.executable, [sys.executable, "-c", SLEEP, sys.argv[1]], {})
    os._exit(0)
os.wait()
THEN
"""
SLEEP = "import os, sys, time; open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); "
SLEEP += "os.rename(sys.argv[1] + '.new', sys.argv[1]); time.sleep(1000)"


def escape(then: str = "time.sleep(1000)") -> str:
    """An agent that has let a process escape before it does what `then` says."""
    return f"SLEEP = {SLEEP!r}\n" + ESCAPE.replace(
        "THEN", f"while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n{then}"
    )


def cgroup_or_reason() -> Path | str:
    """A new cgroup; or why there cannot be one. Raises OSError where there should be."""
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
    """With everybody in it."""
    (group / "cgroup.kill").write_text("1")
    left = threading.Event()
    while populated(group):
        left.wait(0.01)
    for below in sorted(group.rglob("*/"), reverse=True):
        below.rmdir()
    group.rmdir()


def processes_in(group: Path) -> list[int]:
    """Of this cgroup and those below it."""
    files = [group / "cgroup.procs", *group.rglob("*/cgroup.procs")]
    return [int(pid) for file in files for pid in file.read_text().split()]


def populated(group: Path) -> bool:
    """Whether the kernel has anybody in this cgroup or below it; it has for a moment after their end."""
    return "populated 1" in (group / "cgroup.events").read_text()


def groups_in(folder: Path) -> list[Path]:
    """The cgroups right below one, which need not exist."""
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.exists() else []
