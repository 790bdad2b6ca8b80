"""Managers under test: our daemon and supervisord, each on the same agents, in directories of their own."""

from __future__ import annotations

import http.client
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import xmlrpc.client
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import yaml
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

BIN = Path(sys.executable).parent
PATIENCE = 120.0
PEER = "supervisor"  # on PyPI


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
        time.sleep(0.02)


class Reports:
    """A FIFO that agents write `NAME PID` to as their first act, and that is read as they do."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "reports"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._rest = b""

    def command(self, name: str) -> list[str]:
        """An agent: says that it runs, then sleeps."""
        return ["/bin/sh", "-c", f'echo "$0 $$" > {self.path}; exec sleep 100000', name]

    def read(self, count: int) -> list[tuple[str, int, float]]:
        """The next `count` reports: name, pid, moment (s, CLOCK_MONOTONIC) of reading."""
        found: list[tuple[str, int, float]] = []
        while len(found) < count:
            if not select.select([self._fd], [], [], PATIENCE)[0]:
                raise TimeoutError(f"{count - len(found)} of {count} agents did not report")
            *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
            moment = time.monotonic()
            for line in lines:
                name, pid = line.decode().split()
                found.append((name, int(pid), moment))
        return found

    def close(self) -> None:
        os.close(self._fd)


class Manager(ABC):
    """What is measured of a manager: a process in a temporary directory of its own."""

    name: str

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hm-bench-"))
        self.reports = Reports(self.folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def start_all(self) -> None:
        """Ask for everything to be started."""

    @abstractmethod
    def stop_all(self) -> None:
        """Ask for everything to be stopped."""

    @abstractmethod
    def status(self) -> None:
        """Ask once how everything is."""

    @abstractmethod
    def status_command(self) -> list[str]:
        """The command with which an operator asks that."""

    def _run(self, command: list[str | Path]) -> None:
        with (self.folder / "manager.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
        self.reports.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class HostManager(Manager):
    """Our daemon on a unix socket and on loopback TCP, agents down, no restart delay."""

    name = "ours"

    def __init__(self, count: int) -> None:
        super().__init__()
        instances = [
            {
                "instance-id": f"i{n:04}",
                "agent-class": "Bench",
                "manage": "down",
                "command": self.reports.command(f"i{n:04}"),
                "restart": {"backoff": {"initial": 0}},
            }
            for n in range(count)
        ]
        site = self.folder / "site.yaml"
        site.write_text(yaml.safe_dump({"hosts": {"localhost": {"agent-instances": instances}}}))
        self.socket = self.folder / "hm.sock"
        self.address = f"127.0.0.1:{_free_port()}"
        self._run(
            [
                BIN / "hostmanager", "serve", site, "--state-dir", self.folder / "state", "--quiet",
                "--listen", f"unix:{self.socket}", "--listen", self.address, "--insecure",
            ]
        )  # fmt: skip
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")
        self.stub = pb_grpc.HostManagerServiceStub(self.channel)
        wait_until(lambda: self._serves(count), "the daemon")

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

    def status_command(self) -> list[str]:
        return [str(BIN / "hostmanager"), "--address", f"unix:{self.socket}", "status"]

    def close(self) -> None:
        self.channel.close()
        super().close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over supervisord's socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> Any:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._path))
        return connection


class Supervisord(Manager):
    """supervisord at its best: no start delay, restarts always, its own socket, logs in files it pipes to."""

    name = "supervisord"

    def __init__(self, count: int) -> None:
        super().__init__()
        install_peer()
        self.socket = self.folder / "s.sock"
        logs = self.folder / "logs"
        logs.mkdir()
        programs = "".join(
            f"""
[program:i{n:04}]
command=/bin/sh -c 'echo "$0 $$" > {self.reports.path}; exec sleep 100000' i{n:04}
autostart=false
autorestart=true
startsecs=0
stopsignal=INT
"""
            for n in range(count)
        )
        config = self.folder / "supervisord.conf"
        config.write_text(
            f"""
[unix_http_server]
file={self.socket}
[supervisord]
nodaemon=true
user={os.environ.get("USER", "root")}
logfile={self.folder}/supervisord.log
pidfile={self.folder}/supervisord.pid
childlogdir={logs}
minfds=16384
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{self.socket}
{programs}"""
        )
        self.config = config
        self._run([BIN / "supervisord", "-c", config])
        wait_until(self._serves, "supervisord")

    def _rpc(self) -> Any:
        return xmlrpc.client.ServerProxy(
            "http://localhost/RPC2", transport=_UnixTransport(self.socket)
        ).supervisor

    def _serves(self) -> bool:
        try:
            return bool(self._rpc().getState()["statename"] == "RUNNING")
        except OSError:
            return False

    def start_all(self) -> None:
        self._rpc().startAllProcesses(False)

    def stop_all(self) -> None:
        self._rpc().stopAllProcesses(False)

    def status(self) -> None:
        self._rpc().getAllProcessInfo()

    def status_command(self) -> list[str]:
        return [str(BIN / "supervisorctl"), "-c", str(self.config), "status"]


def install_peer() -> None:
    """Put supervisord beside us, if it is not there: it is needed for nothing but the comparison."""
    if not (BIN / "supervisord").exists():
        print(f"installing {PEER} for the comparison", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", PEER], check=True)


def bring_up(manager: Manager, count: int) -> dict[str, int]:
    """Start everything; the pids by name, once every agent runs."""
    asking = threading.Thread(target=manager.start_all)
    asking.start()
    pids = {name: pid for name, pid, _ in manager.reports.read(count)}
    asking.join()
    time.sleep(0.5)  # let the manager come to rest: what follows is measured from there
    return pids


def wait_gone(pids: Iterable[int]) -> float:
    """The moment (s, CLOCK_MONOTONIC) when the last of these processes has ended."""
    poll = select.poll()
    waiting = set()
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll.register(fd, select.POLLIN)
        waiting.add(fd)
    while waiting:
        for fd, _ in poll.poll(PATIENCE * 1000):
            poll.unregister(fd)
            os.close(fd)
            waiting.discard(fd)
    return time.monotonic()
