"""Processes that hold files under the descriptor number of records."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.core.events import Instant, RunKey
from hostmanager_server.core.spec import ProcessSpec
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux import pidfds

# Executes each line of standard input as Python, and prints "done" after each.
_OBEYS = """
import ctypes, fcntl, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
AT = int(sys.argv[1])
def hold(descriptor, path):
    os.dup2(descriptor, AT)
    os.unlink(path)
def regular(path, data, lock=True):
    with open(path, "wb") as file:
        file.write(data)
    hold(os.open(path, os.O_RDONLY), path)
    if lock:
        fcntl.flock(AT, fcntl.LOCK_EX)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Holder:
    """A process that executes commands of the test, with files under `descriptor`.

    `process.pid` is its own pid.
    """

    def __init__(self, prefix: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        command = [*prefix, sys.executable, "-c", _OBEYS, str(gate.lock_descriptor())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def do(self, code: str) -> str:
        """Run a line of Python in the holder, and return its output."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{code}\n")
        self.process.stdin.flush()
        output = ""
        for line in self.process.stdout:
            if line == "done\n":
                return output
            output += line
        raise AssertionError(f"the holder ended with {self.process.wait()}")

    def is_alive(self) -> bool:
        return self.process.poll() is None


@contextlib.contextmanager
def holder(*prefix: str, env: dict[str, str] | None = None) -> Iterator[Holder]:
    """Start a holder behind this command prefix, and kill the holder afterwards."""
    held = Holder(prefix, env)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.communicate()


def namespace_prefix(*options: str) -> list[str]:
    """Return the command prefix for new namespaces; skip the test where forbidden."""
    words = ["unshare", *options, "--"]
    try:
        done = subprocess.run(
            [*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("unshare is missing; install util-linux")
    if done.returncode != 0:
        pytest.skip(f"namespaces are not allowed here: {done.stderr.decode().strip()}")
    return words


def forged_record(pid: int, instance: str = "forged", token: str = "f.1") -> Record:
    """Return a record with this process as the main process of an instance."""
    pidfd = pidfds.open_pidfd(pid)
    assert pidfd is not None
    identity = pidfds.identify(pid, pidfd)
    assert identity is not None
    return replace(
        Record(RunKey(instance, 1), token, identity, Instant(1.0, 2.0), ProcessSpec(("sleep", "1000"))),
        released=True,
    )


def record_path(runs: Path, instance: str = "forged") -> str:
    """Return the path of an instance's record."""
    return str(runs / f"{instance}.json")
