"""Private mount namespaces, full disks, and processes in /proc, for fault tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.daemon import COMMAND, Daemon

# Tests may need root and features of the machine. A developer run skips such tests; a CI build as root fails
# instead, as skipping would hide the gap.
_MUST = os.environ.get("CI") == "true" and os.geteuid() == 0


def require(feature: str, *, available: bool) -> None:
    """Skip the test where the machine lacks a feature; fail in a CI build as root."""
    if available:
        return
    if _MUST:
        pytest.fail(f"this build must run every test, but the machine lacks {feature}")
    pytest.skip(f"needs {feature}")


@cache
def _mounts_possible() -> bool:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True, check=False).returncode == 0


class MountNamespace:
    """A private mount namespace; other processes do not see its mounts. `close` ends the namespace."""

    def __init__(self) -> None:
        require("root and mount namespaces", available=_mounts_possible())
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 100000"],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        self._keeper.stdout.readline()

    def enter(self, folder: Path, command: Sequence[str | Path] = (COMMAND,)) -> list[str | Path]:
        """Return a command line that executes `command` in the namespace, as the same process."""
        return ["nsenter", f"--target={self._keeper.pid}", "--mount", f"--wd={folder}", "--", *command]

    def run(self, *command: str | Path) -> None:
        """Run a command in the namespace to its end."""
        subprocess.run(self.enter(Path("/"), command), check=True, capture_output=True, text=True)

    def mount_tmpfs(self, where: Path, size: str) -> Path:
        """Mount an empty disk of this size at `where`; return its path outside the namespace."""
        where.mkdir(parents=True, exist_ok=True)
        self.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", where)
        return self.outside(where)

    def make_read_only(self, where: Path) -> None:
        """Mount a read-only view over a folder; files that are already open stay writable."""
        self.run("mount", "--bind", where, where)
        self.run("mount", "-o", "remount,bind,ro", where)

    def unmount(self, where: Path) -> None:
        """Unmount the last mount at `where`; open files stay usable."""
        self.run("umount", "--lazy", where)

    def outside(self, where: Path) -> Path:
        """Return the path outside the namespace of a file inside."""
        return Path(f"/proc/{self._keeper.pid}/root{where}")

    def close(self) -> None:
        """End the namespace."""
        self._keeper.kill()
        self._keeper.wait()
        if self._keeper.stdout is not None:
            self._keeper.stdout.close()


def fill(folder: Path) -> Path:
    """Fill the disk of this folder to the last byte; removing the returned file frees the disk."""
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
    """Return the children of a process and their states, as /proc shows them."""
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
    """Return the ended children that the daemon has not reaped."""
    return [pid for pid, state in children(daemon.pid).items() if state == "Z"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in user and kernel mode, in s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
