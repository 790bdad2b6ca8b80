"""The agents that all managers run, the FIFO of their reports, and a crowd of foreign processes."""

from __future__ import annotations

import functools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120.0  # s, more than any wait takes on any machine
# Programs of the benchmarks: the static child, and the peers that scripts/setup-peers unpacks.
BENCH = Path(sys.executable).parent.parent / "bench"
_SOURCE = Path(__file__).with_name("child.c")
_SLEEP = ("sleep", "100000")  # the command that a child without a compiled program becomes


@dataclass(frozen=True, slots=True)
class Child:
    """A program that reports its start, then sleeps until a signal ends it.

    `program` is the compiled static child; without one, `shell` writes the report and becomes `sleep`.
    """

    name: str
    program: Path | None = None
    shell: tuple[str, ...] = ("/bin/sh",)
    sleep: tuple[str, ...] = _SLEEP

    def command(self, fifo: Path, name: str) -> list[str]:
        """Return the command of an agent."""
        if self.program is not None:
            return [str(self.program), str(fifo), name]
        return [*self.shell, "-c", f'echo "$0 $$" > {fifo}; exec {" ".join(self.sleep)}', name]

    def write_run_file(self, path: Path, fifo: Path) -> None:
        """Make a program for runit and s6: `run` in a folder that has the name of the agent."""
        if self.program is not None:
            path.symlink_to(self.program)
            return
        *words, script, name = self.command(fifo, path.parent.name)
        path.write_text(f"#!{self.shell[0]}\nexec {' '.join(words)} '{script}' {name}\n")
        path.chmod(0o755)

    def is_agent(self, pid: int) -> bool:
        """Return whether a process is such an agent after its report."""
        try:
            if self.program is not None:
                return os.readlink(f"/proc/{pid}/exe") == str(self.program)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:  # ended
            return False
        return words == [word.encode() for word in self.sleep]


SHELL = Child("shell child")


@functools.cache
def static_child() -> Child:
    """Return the static child; without a compiler, the child of a static busybox, or of the shell."""
    program = BENCH / "child"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is not None:
        BENCH.mkdir(exist_ok=True)
        if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
            made = program.with_name(f"child.{os.getpid()}")  # another process may compile at the same time
            subprocess.run([compiler, "-static", "-O2", "-o", made, _SOURCE], check=True)
            made.replace(program)
        return Child("static child", program.resolve())
    busybox = shutil.which("busybox")
    if busybox is None:
        return SHELL
    return Child("busybox child", None, (busybox, "sh"), (busybox, *_SLEEP))


class Reports:
    """A FIFO for reports of agents: each writes `NAME PID`, and the time if it can, as its first act."""

    def __init__(self, folder: Path, child: Child = SHELL) -> None:
        self.path = folder / "reports"
        self.child = child
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._partial = b""
        self._pids: set[int] = set()

    def command(self, name: str) -> list[str]:
        """Return the command of an agent that reports, then sleeps."""
        return self.child.command(self.path, name)

    def read(self, count: int) -> list[tuple[str, int, float]]:
        """Return the next `count` reports: name, pid, and time (s, CLOCK_MONOTONIC).

        The time is that of the agent's first act, or of reading where the agent does not tell.
        """
        found: list[tuple[str, int, float]] = []
        while len(found) < count:
            if not select.select([self._fd], [], [], PATIENCE)[0]:
                raise TimeoutError(f"{count - len(found)} of {count} agents did not report")
            found += self._parse(os.read(self._fd, 65536))
        return found

    def _parse(self, data: bytes) -> list[tuple[str, int, float]]:
        *lines, self._partial = (self._partial + data).split(b"\n")
        read = time.monotonic()
        found = []
        for line in lines:
            name, pid, *moment = line.decode().split()
            self._pids.add(int(pid))
            found.append((name, int(pid), int(moment[0]) / 1e9 if moment else read))
        return found

    def close(self) -> None:
        """Kill the agents that reported and still run."""
        os.close(self._fd)
        for pid in self._pids:
            self._end(pid)

    def _end(self, pid: int) -> None:
        """Kill a process, unless the pid now belongs to another program."""
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:  # looked at after pidfd_open, so that the signal goes to the process that was looked at
            if self.child.is_agent(pid):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


@contextmanager
def crowd(count: int) -> Iterator[None]:
    """Run `count` processes that belong to no manager and only sleep."""
    child = static_child()
    if child.program is not None:
        command = [str(child.program), "--crowd", str(count)]
    else:
        sleep = " ".join(child.sleep)
        loop = f"i=0; while [ $i -lt {count} ]; do {sleep} & i=$((i+1)); done; echo ready; wait"
        command = [*child.shell, "-c", loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(
                    f"cannot start {count} processes: raise the limit of processes (ulimit -u)"
                )
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
