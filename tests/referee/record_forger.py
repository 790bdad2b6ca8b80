"""A forged runtime record, held open by a process in a mount namespace as agents hold theirs.

The record names an unrelated process as the main process of an instance that the site config does not have.
A daemon that trusts the record recovers the instance and stops the unrelated process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.spec import ProcessSpec
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds

FORGED = "forged"  # the instance id

# Arguments: a folder to mount over, the path of a removed and locked file there, its text, its descriptor.
_HOLD = """
import fcntl, os, subprocess, sys
folder, path, text, number = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
os.makedirs(os.path.dirname(path))
with open(path, "w") as file:
    file.write(text)
os.dup2(os.open(path, os.O_RDONLY), int(number))
fcntl.flock(int(number), fcntl.LOCK_EX)
os.unlink(path)
print("held", flush=True)
sys.stdin.read()
"""


class RecordForger:
    """The process that holds the record until `close`.

    `held` is False where the kernel allows no namespaces.
    """

    def __init__(self, folder: Path, state_dir: Path, named: int) -> None:
        unshare = ["unshare", "--mount"]
        if os.geteuid() != 0:
            unshare += ["--user", "--map-root-user"]
        path = state_dir / "runs" / f"{FORGED}.json"
        words = [str(folder), str(path), _record_of(named).decode(), str(gate.lock_descriptor())]
        self._process = subprocess.Popen(
            [*unshare, "--", sys.executable, "-I", "-S", "-c", _HOLD, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        assert self._process.stdout is not None
        self.held = self._process.stdout.readline() == b"held\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _record_of(pid: int) -> bytes:
    pidfd = os.pidfd_open(pid)
    try:
        identity = pidfds.identify(pid, pidfd)
    finally:
        os.close(pidfd)
    assert identity is not None
    run = RunKey(FORGED, 1)
    return Record(
        run, "forged.1", identity, Instant(1.0, 2.0), ProcessSpec(("true",)), released=True
    ).to_json()
