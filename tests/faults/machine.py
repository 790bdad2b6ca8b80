"""Namespaces of a test's own, in which disks fill up and the machine looks like another."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.daemon import COMMAND, Daemon

# What a run as root may need of the machine. On a laptop such a test is skipped; a build that is meant to run
# everything is not to leave it out in silence.
_MUST = os.environ.get("CI") == "true" and os.geteuid() == 0


def need(possible: bool, what: str) -> None:
    """Skip this test where the machine does not offer `what`; fail in a build as root."""
    if possible:
        return
    if _MUST:
        pytest.fail(f"this build is to run every test, and there is no {what}")
    pytest.skip(f"needs {what}")


@cache
def _mounts_possible() -> bool:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True, check=False).returncode == 0


class MountSpace:
    """A private mount namespace: what is mounted in it nobody else sees. It lasts until `close`."""

    def __init__(self) -> None:
        need(_mounts_possible(), "root and mount namespaces")
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 100000"],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        self._keeper.stdout.readline()

    def enter(self, folder: Path, command: Sequence[str | Path] = (COMMAND,)) -> list[str | Path]:
        """The command line that runs `command` within; its process is the command's own."""
        return ["nsenter", f"--target={self._keeper.pid}", "--mount", f"--wd={folder}", "--", *command]

    def run(self, *command: str | Path) -> None:
        """Run a command within, to its end."""
        subprocess.run(self.enter(Path("/"), command), check=True, capture_output=True, text=True)

    def mount_tmpfs(self, where: Path, size: str) -> Path:
        """An empty disk of this size at `where`; the path by which it is seen from outside."""
        where.mkdir(parents=True, exist_ok=True)
        self.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", where)
        return self.outside(where)

    def make_read_only(self, where: Path) -> None:
        """Put a read-only view of a folder over it, for every name that is looked up from now on."""
        self.run("mount", "--bind", where, where)
        self.run("mount", "-o", "remount,bind,ro", where)

    def unmount(self, where: Path) -> None:
        """Take away what was mounted last at `where`; whoever has something open there keeps it."""
        self.run("umount", "--lazy", where)

    def outside(self, where: Path) -> Path:
        """The path by which a file within is seen from outside."""
        return Path(f"/proc/{self._keeper.pid}/root{where}")

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()


def fill(folder: Path) -> Path:
    """Leave no byte free on the disk of this folder; remove the file that is returned to free it."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        for step in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * step)
            except OSError:
                continue
    return filler


def children(pid: int) -> dict[int, str]:
    """The children of a process with their states, as /proc has them."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found[int(entry)] = fields[0]
    return found


def zombies(daemon: Daemon) -> list[int]:
    """Children of the daemon that have ended and that it has not reaped."""
    return [pid for pid, state in children(daemon.pid).items() if state == "Z"]


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
