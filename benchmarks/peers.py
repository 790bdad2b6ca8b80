"""supervisord as the peer of the benchmarks, with the same agents."""

from __future__ import annotations

import http.client
import os
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any

from benchmarks.managers import BIN, Manager


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

    def __init__(self, count: int) -> None:
        require_peer()
        super().__init__()
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
command=/bin/sh -c 'echo "$0 $$" > {self.reports.path}; exec sleep 100000' {name}
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


def require_peer() -> None:
    """Raise SystemExit unless supervisord is installed; only comparisons need it."""
    if not (BIN / "supervisord").exists():
        raise SystemExit(
            f"cannot compare with supervisord: it is not in {BIN.parent}; "
            "run `make bench`, or `scripts/setup-venv bench` first"
        )
