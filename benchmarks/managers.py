"""The interface through which benchmarks control a service manager, and the HostManager daemon behind it."""

from __future__ import annotations

import functools
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import grpc
import yaml
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from benchmarks.agents import PATIENCE, SHELL, Child, Reports
from benchmarks.table import NotHereError

__all__ = ["PATIENCE", "HostManager", "HostManagerDaemon", "Manager", "Reports", "bring_up", "wait_until"]

BIN = Path(sys.executable).parent


# Waits for the exits of `count` agents, and returns the time of the last (s, CLOCK_MONOTONIC).
WaitForExits = Callable[[int], float]


def wait_until(condition: Callable[[], bool], what: str, *, pause: float = 0.02) -> None:
    """Wait for a condition. Raises TimeoutError after PATIENCE s, with `what` in its text."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(pause)


class Manager(ABC):
    """A service manager under measurement: a process in a temporary directory."""

    name: ClassVar[str]

    def __init__(self, child: Child = SHELL) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hm-bench-"))
        self.reports = Reports(self.folder, child)
        self._process: subprocess.Popen[bytes] | None = None
        self.began = 0.0  # s, CLOCK_MONOTONIC, of the start of the process
        self.first_answer = 0.0

    @property
    def pid(self) -> int:
        """The pid of the manager."""
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def start_all(self) -> None:
        """Request the start of all agents."""

    @abstractmethod
    def stop_all(self) -> None:
        """Request the stop of all agents."""

    @abstractmethod
    def status(self) -> None:
        """Read the status of all agents once."""

    def exits(self, name: str) -> AbstractContextManager[WaitForExits]:
        """Subscribe to exits of all agents, or at least of `name`. Raises NotHereError if nobody can."""
        raise NotHereError(f"{self.name} tells no subscriber of exits")

    @abstractmethod
    def status_command(self) -> list[str]:
        """Return an operator's command for the status."""

    def _run(
        self,
        command: list[str | Path],
        serves: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start the manager, and wait until it `serves`.

        `environ` None stands for the environment of this process. Raises RuntimeError when the manager ends.
        """
        self._again = functools.partial(self._start, command, environ)
        self.began = time.monotonic()
        self._again()
        try:
            wait_until(lambda: self._ended() or serves(), self.name, pause=0.002)
            self.first_answer = time.monotonic()
            if self._ended():
                text = (self.folder / "manager.log").read_text(errors="replace")
                raise RuntimeError(f"cannot measure {self.name}: it ended at once:\n{text}")
        except BaseException:  # an interrupt too: no caller can close the manager yet
            self.close()
            raise

    def _start(self, command: list[str | Path], environ: Mapping[str, str] | None) -> None:
        with (self.folder / "manager.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=environ
            )

    def crash_and_start(self) -> None:
        """Kill the manager with SIGKILL, and start it again; returns at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._again()

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the manager and its agents, and remove the directory."""
        try:
            if self._process is not None:
                self._process.terminate()
                self._process.wait(PATIENCE)
        finally:
            if self._process is not None and not self._ended():
                self._process.kill()
                self._process.wait()
            self.reports.close()
            shutil.rmtree(self.folder, ignore_errors=True)


class HostManagerDaemon(Manager):
    """The HostManager daemon, on a unix socket and on loopback TCP."""

    name = "ours"

    def __init__(
        self,
        count: int,
        options: Sequence[str | Path] = (),
        environ: Mapping[str, str] | None = None,
        child: Child = SHELL,
    ) -> None:
        super().__init__(child)
        instances = [self._instance(number) for number in range(count)]
        site = self.folder / "site.yaml"
        site.write_text(yaml.safe_dump({"hosts": {"localhost": {"agent-instances": instances}}}))
        self.socket = self.folder / "hm.sock"
        self.address = f"127.0.0.1:{_free_port()}"
        # gRPC's default pause between two connection attempts, 1 s, would count as downtime of a daemon.
        pause = [(f"grpc.{which}_reconnect_backoff_ms", 10) for which in ("initial", "min", "max")]
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", pause)
        self.stub = pb_grpc.HostManagerServiceStub(self.channel)
        self._run(
            [
                BIN / "hostmanager", "serve", site, "--state-dir", self.folder / "state", "--quiet",
                "--listen", f"unix:{self.socket}", "--listen", self.address, "--insecure", *options,
            ],
            serves=lambda: self._serves(count),
            environ=environ,
        )  # fmt: skip

    @abstractmethod
    def _instance(self, number: int) -> dict[str, Any]:
        """Return the site config of one instance."""

    def _serves(self, count: int) -> bool:
        try:
            return len(self.stub.GetStatus(pb.GetStatusRequest(), timeout=5).child_states) == count
        except grpc.RpcError:
            return False

    def _update(self, target: pb.TargetState.ValueType) -> None:
        change = pb.TargetChange(all=True, target_state=target)
        self.stub.Update(pb.UpdateRequest(requests=[change]), timeout=PATIENCE)

    def start_all(self) -> None:
        self._update(pb.TARGET_STATE_UP)

    def stop_all(self) -> None:
        self._update(pb.TARGET_STATE_DOWN)

    def status(self) -> None:
        self.stub.GetStatus(pb.GetStatusRequest(), timeout=PATIENCE)

    @contextmanager
    def exits(self, name: str) -> Iterator[WaitForExits]:
        stream = self.stub.WatchEvents(pb.WatchEventsRequest(heartbeat_interval=Duration(seconds=1)))
        messages = iter(stream)
        next(messages)  # a heartbeat: the subscription stands

        def wait(count: int) -> float:
            ended: set[str] = set()
            while len(ended) < count:
                for event in next(messages).events:
                    if event.kind == pb.EVENT_KIND_EXIT:
                        ended.add(event.instance_id)
            return time.monotonic()

        yield wait
        stream.cancel()

    def status_command(self) -> list[str]:
        return [str(BIN / "hostmanager"), "--address", f"unix:{self.socket}", "status"]

    def close(self) -> None:
        self.channel.close()
        super().close()


class HostManager(HostManagerDaemon):
    """The daemon with native processes, down at first, without a restart delay."""

    def _instance(self, number: int) -> dict[str, Any]:
        return {
            "instance-id": f"i{number:04}",
            "agent-class": "Bench",
            "manage": "down",
            "command": self.reports.command(f"i{number:04}"),
            "restart": {"backoff": {"initial": 0}},
        }


def _free_port() -> int:
    """Return a free port outside the kernel's ephemeral range, which no other program gets by chance."""
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest_given // 2, lowest_given)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def bring_up(manager: Manager, count: int) -> dict[str, int]:
    """Start all agents, wait for their reports, and return their pids by name."""
    asking = threading.Thread(target=manager.start_all)
    asking.start()
    pids = {name: pid for name, pid, _ in manager.reports.read(count)}
    asking.join()
    time.sleep(0.5)  # lets the manager become idle before the measurement
    return pids


def watch_ends(pids: Iterable[int]) -> list[int]:
    """Return a pidfd for each process, for `wait_ended`."""
    return [os.pidfd_open(pid) for pid in pids]


def wait_ended(pidfds: Iterable[int]) -> float:
    """Wait for the end of all processes, and return its time (s, CLOCK_MONOTONIC).

    Closes the descriptors. Raises TimeoutError after PATIENCE s without an end.
    """
    poll = select.poll()
    waiting = set(pidfds)
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    moment = time.monotonic()
    try:
        while waiting:
            ended = poll.poll(PATIENCE * 1000)
            moment = time.monotonic()
            if not ended:
                raise TimeoutError(f"{len(waiting)} agents did not end")
            for fd, _ in ended:
                poll.unregister(fd)
                os.close(fd)
                waiting.discard(fd)
    finally:
        for fd in waiting:
            os.close(fd)
    return moment
