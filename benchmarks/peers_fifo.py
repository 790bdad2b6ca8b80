"""runit and s6 as peers of the benchmarks: a supervisor process for each agent, controlled by a FIFO."""

from __future__ import annotations

import os
import platform
import select
import shutil
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.agents import BENCH, PATIENCE, SHELL, Child
from benchmarks.managers import Manager, WaitForExits, wait_ended, watch_ends
from benchmarks.peers import require

DEBIAN = BENCH / "debian"  # unpacked packages, see scripts/setup-peers


def program(name: str) -> str | None:
    """Return the path of a program of the machine, or of scripts/setup-peers."""
    unpacked = DEBIAN / "usr" / "bin" / name
    return str(unpacked) if unpacked.exists() else shutil.which(name)


def inside(command: Sequence[str | Path]) -> list[str | Path]:
    """Return a command for programs that look for one another in /usr/bin.

    Unpacked packages appear there in a mount namespace, which changes nothing for the rest of the machine.
    """
    if not str(command[0]).startswith(str(DEBIAN)):
        return list(command)
    mount = f'mount -t overlay overlay -o "lowerdir={DEBIAN / "usr"}:/usr" /usr && exec "$0" "$@"'
    own_users = () if os.geteuid() == 0 else ("--map-root-user",)
    return ["unshare", *own_users, "--mount", "/bin/sh", "-c", mount, *command]


def environment() -> dict[str, str]:
    """Return an environment in which the unpacked programs find their libraries and one another."""
    libraries = DEBIAN / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(libraries),
        "PATH": f"{DEBIAN / 'usr' / 'bin'}:{os.environ.get('PATH', '')}",
    }


class FifoManager(Manager):
    """A scanner with one supervisor for each agent, all down at first.

    The benchmarks write the commands into the FIFOs themselves, which is what `sv` and `s6-svc` do, without
    starting these programs.
    """

    program: str

    def __init__(self, count: int, child: Child = SHELL) -> None:
        require(self.name, self.missing())
        super().__init__(child)
        self.scanned = self.folder / "services"
        self.services = [self.scanned / f"i{number:04}" for number in range(count)]
        for service in self.services:
            service.mkdir(parents=True)
            (service / "down").touch()
            child.write_run_file(service / "run", self.reports.path)
        fifo = {"HM_BENCH_FIFO": str(self.reports.path)}
        self._run([*self._command(count)], serves=self._serves, environ={**environment(), **fifo})

    @classmethod
    def missing(cls) -> str:
        if program(cls.program) is not None:
            return ""
        return f"there is no {cls.program}; run `scripts/setup-peers`"

    @abstractmethod
    def _command(self, count: int) -> list[str | Path]:
        """Return the command of the scanner."""

    def _serves(self) -> bool:
        return all(self._control(service) for service in self.services)

    def _control(self, service: Path, command: bytes = b"") -> bool:
        """Write a command; return whether a supervisor reads."""
        try:
            fd = os.open(service / "supervise" / "control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no FIFO yet, or no reader
            return False
        os.write(fd, command)
        os.close(fd)
        return True

    def start_all(self) -> None:
        for service in self.services:
            self._control(service, b"u")

    def stop_all(self) -> None:
        for service in self.services:
            self._control(service, b"d")

    def status(self) -> None:
        for service in self.services:
            (service / "supervise" / "status").read_bytes()

    def close(self) -> None:
        """End the scanner and the supervisors, which it leaves, then the agents."""
        supervisors = watch_ends(self._supervisors())
        for service in self.services:
            self._control(service, b"dx")  # down, then exit
        if self._process is not None and not self._ended():
            self._process.send_signal(signal.SIGHUP if self.name == "runit" else signal.SIGTERM)
        wait_ended(supervisors)
        super().close()

    def _supervisors(self) -> list[int]:
        if self._process is None or self._ended():
            return []
        try:
            return [int(p) for p in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []


class Runit(FifoManager):
    """runsvdir and a runsv for each agent."""

    name = "runit"
    program = "runsvdir"

    def _command(self, count: int) -> list[str | Path]:
        return [program("runsvdir") or "", "-P", self.scanned]

    def status_command(self) -> list[str]:
        return [program("sv") or "", "status", *map(str, self.services)]


class S6(FifoManager):
    """s6-svscan and an s6-supervise for each agent; exits by s6-ftrig-listen1."""

    name = "s6"
    program = "s6-svscan"

    def _command(self, count: int) -> list[str | Path]:
        return inside([program("s6-svscan") or "", "-c", str(max(500, count + 10)), self.scanned])

    def status_command(self) -> list[str]:
        stat = program("s6-svstat") or ""
        return ["/bin/sh", "-c", f'for d in {self.scanned}/*; do echo "$d: $({stat} $d)"; done']

    @contextmanager
    def exits(self, name: str) -> Iterator[WaitForExits]:
        events = self.scanned / name / "event"
        command = inside([program("s6-ftrig-listen1") or "", events, "d", "echo", "subscribed"])
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), bufsize=0) as listener:
            assert listener.stdout is not None
            output = listener.stdout
            if output.readline() != b"subscribed\n":
                raise RuntimeError(f"cannot subscribe to {events}: the listener of s6 ended")

            def wait(count: int) -> float:
                assert count == 1, "a listener of s6 ends with the first exit"
                if not select.select([output], [], [], PATIENCE)[0]:
                    raise TimeoutError(f"s6 told no exit of {name}")
                return time.monotonic()

            try:
                yield wait
            finally:
                listener.kill()
