"""Daemon processes: start, kill, stop, and whether a daemon serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from tests.referee import proc
from tests.referee.host import Host
from tests.referee.mutant import Mutant

# The command `hostmanager` by the present interpreter, as other users may run another interpreter.
COMMAND = (sys.executable, "-c", "from hostmanager_client.cli import main; main()")
_MUTANT = Path(__file__).with_name("mutant.py")
# For clients of a daemon that dies often: reconnect at once, and share no connection.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
)


def command_of(mutant: Mutant) -> tuple[str, ...]:
    """Return the command of a daemon with this bug."""
    return (sys.executable, str(_MUTANT), mutant.value)


def open_channel(host: Host) -> grpc.Channel:
    """Open a channel of its own to the daemon's socket."""
    return grpc.insecure_channel(f"unix:{host.socket}", options=CHANNEL_OPTIONS)


def listens(host: Host) -> bool:
    """Return whether a daemon accepts connections, at less cost than a failed call."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(host.socket)) == 0


class DiedError(Exception):
    """The daemon ended while the referee worked with it."""


class DaemonProcess:
    """A daemon process; `number` counts the daemons.

    `failpoints` is the value of HOSTMANAGER_FAILPOINTS (see hostmanager_server/failpoints.py).
    """

    def __init__(
        self, host: Host, number: int, failpoints: str = "", program: Sequence[str] = COMMAND
    ) -> None:
        self._host = host
        self.number = number
        self.failpoints = failpoints
        self.log = host.folder / f"daemon-{number}.log"
        self.started = proc.now()
        env = {**os.environ, "HOSTMANAGER_FAILPOINTS": failpoints}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *program, "serve", str(host.file), "--state-dir", str(host.state_dir),
                    "--listen", f"unix:{host.socket}", "--host", "localhost",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=host.folder, env=env,
                start_new_session=True,
            )  # fmt: skip
        self.ended: float | None = None
        self.by_itself = False  # the daemon ended before a kill or a stop

    @property
    def pid(self) -> int:
        """Pid of the daemon."""
        return self.process.pid

    def alive(self) -> bool:
        """Return whether the daemon runs; an ended daemon is reaped."""
        if self.ended is None and self.process.poll() is not None:
            self.ended = proc.now()
            self.by_itself = True
        return self.ended is None

    def require_alive(self) -> None:
        """Raise DiedError if the daemon ended."""
        if not self.alive():
            text = f"daemon {self.number} ended with {self.process.returncode}"
            raise DiedError("\n    ".join([text, *self.log_tail()]))

    def kill(self) -> None:
        """Kill a running daemon with SIGKILL and reap it."""
        if self.alive():
            self.process.kill()
            self.process.wait()
            self.ended = proc.now()

    def end(self, patience: float) -> int:
        """Stop the daemon and all instances by SIGTERM; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(patience)
        self.ended = proc.now()
        return code

    def serves(self, stub: pb_grpc.HostManagerServiceStub) -> bool:
        """Return whether this daemon answers and its manager runs. Raises DiedError."""
        self.require_alive()
        if not listens(self._host):
            return False
        try:
            manager = stub.GetStatus(pb.GetStatusRequest(), timeout=5).manager
        except grpc.RpcError:
            return False
        return manager.pid == self.pid and manager.state == pb.MANAGER_STATE_RUNNING

    def log_tail(self, lines: int = 25) -> tuple[str, ...]:
        """Return the last lines of the daemon's log."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return tuple(f"daemon {self.number}: {line}" for line in text)
