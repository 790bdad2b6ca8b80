"""Processes that hold something under the descriptor where agents have their record."""

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

# Takes the lines of its standard input for Python, and says when each is done.
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
    """A process that does what the test tells it, under `descriptor`; `pid` is its own pid."""

    def __init__(self, prefix: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        command = [*prefix, sys.executable, "-c", _OBEYS, str(gate.lock_descriptor())]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def do(self, code: str) -> str:
        """Run a line of Python in it; what it printed before it was done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{code}\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            if line == "done\n":
                return said
            said += line
        raise AssertionError(f"the holder ended with {self.process.wait()}")

    def lives(self) -> bool:
        return self.process.poll() is None


@contextlib.contextmanager
def holder(*prefix: str, env: dict[str, str] | None = None) -> Iterator[Holder]:
    """A holder, as the program that this prefix of its command makes of it."""
    held = Holder(prefix, env)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.communicate()


def in_namespaces(*options: str) -> list[str]:
    """The words that run a command in namespaces of its own; skips the test where there can be none."""
    words = ["unshare", *options, "--"]
    try:
        done = subprocess.run(
            [*words, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare; install util-linux")
    if done.returncode != 0:
        pytest.skip(f"namespaces are not allowed here: {done.stderr.decode().strip()}")
    return words


def forged(pid: int, instance: str = "forged", token: str = "f.1") -> Record:
    """A record that names this process as the main process of an instance."""
    pidfd = pidfds.open_pidfd(pid)
    assert pidfd is not None
    who = pidfds.identify(pid, pidfd)
    assert who is not None
    return replace(
        Record(RunKey(instance, 1), token, who, Instant(1.0, 2.0), ProcessSpec(("sleep", "1000"))),
        released=True,
    )


def place(runs: Path, instance: str = "forged") -> str:
    """Where the record of an instance is."""
    return str(runs / f"{instance}.json")
