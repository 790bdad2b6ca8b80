"""supervisord as the peer of the benchmarks, with the same agents."""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import xmlrpc.client
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.agents import SHELL, Child
from benchmarks.managers import BIN, HostManager, Manager
from benchmarks.table import NotHereError


class _UnixTransport(xmlrpc.client.Transport):
    """An XML-RPC transport over supervisord's unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> Any:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self._path))
        return connection


class Supervisord(Manager):
    """supervisord at its fastest: no start delay, unconditional restarts, a unix socket, piped logs."""

    name = "supervisord"

    @staticmethod
    def missing() -> str:
        if (BIN / "supervisord").exists():
            return ""
        return f"it is not in {BIN.parent}; run `make bench`, or `scripts/setup-venv bench` first"

    def __init__(self, count: int, child: Child = SHELL) -> None:
        require(self.name, self.missing())
        super().__init__(child)
        self.socket = self.folder / "s.sock"
        logs = self.folder / "logs"
        logs.mkdir()
        programs = "".join(self._program(f"i{number:04}") for number in range(count))
        self.config = self.folder / "supervisord.conf"
        self.config.write_text(self._main_sections(logs) + programs)
        self._run([BIN / "supervisord", "-c", self.config], serves=self._serves)

    def _main_sections(self, logs: Path) -> str:
        return f"""
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
"""

    def _program(self, name: str) -> str:
        return f"""
[program:{name}]
command={shlex.join(self.reports.command(name)).replace("%", "%%")}
autostart=false
autorestart=true
startsecs=0
stopsignal=INT
"""

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


class MakeManager(Protocol):
    """A class of managers."""

    name: str

    def __call__(self, count: int, *, child: Child = SHELL) -> Manager:
        """Start a manager with `count` agents, all down."""


class Peer(MakeManager, Protocol):
    """A class of managers that this machine may lack."""

    @staticmethod
    def missing() -> str:
        """Return the reason why this machine cannot run the peer, or an empty text."""


def require(name: str, missing: str) -> None:
    """Raise NotHereError if there is a reason why this machine cannot run a peer."""
    if missing:
        raise NotHereError(f"cannot compare with {name}: {missing}")


def here(*peers: Peer) -> tuple[list[MakeManager], str]:
    """Return the peers that this machine can run, and a note on the others."""
    missing = {peer.name: reason for peer in peers if (reason := peer.missing())}
    found: list[MakeManager] = [peer for peer in peers if peer.name not in missing]
    return found, "; ".join(f"without {name}: {reason}" for name, reason in missing.items())


def with_ours(peers: Iterable[MakeManager]) -> list[MakeManager]:
    """Return the daemon of this distribution and the peers."""
    return [HostManager, *peers]
