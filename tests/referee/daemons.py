"""One life of the daemon, from its start to its end."""

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
from tests.referee.ground import Ground
from tests.referee.mutant import Mutant

# The command `hostmanager` of whatever interpreter this is: another user may have another.
COMMAND = (sys.executable, "-c", "from hostmanager_client.cli import main; main()")
_MUTANT = Path(__file__).with_name("mutant.py")
# A client of a daemon that dies often: it tries again at once, and shares its connection with nobody.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
)


def mutated(mutant: Mutant) -> tuple[str, ...]:
    """The command of a daemon that is wrong in this way."""
    return (sys.executable, str(_MUTANT), mutant.value)


def open_channel(ground: Ground) -> grpc.Channel:
    return grpc.insecure_channel(f"unix:{ground.socket}", options=CHANNEL_OPTIONS)


def listens(ground: Ground) -> bool:
    """Whether somebody takes connections: cheaper to ask than a call that fails."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(ground.socket)) == 0


class DiedError(Exception):
    """The daemon ended while something was asked of it."""


class DaemonLife:
    """A daemon that was just started. `number` counts them; `failpoints` arms it, see the daemon's module."""

    def __init__(
        self, ground: Ground, number: int, failpoints: str = "", program: Sequence[str] = COMMAND
    ) -> None:
        self._ground = ground
        self.number = number
        self.failpoints = failpoints
        self.log = ground.folder / f"daemon-{number}.log"
        self.started = proc.now()
        env = {**os.environ, "HOSTMANAGER_FAILPOINTS": failpoints}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *program, "serve", str(ground.file), "--state-dir", str(ground.state_dir),
                    "--listen", f"unix:{ground.socket}", "--host", "localhost",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ground.folder, env=env,
                start_new_session=True,
            )  # fmt: skip
        self.ended: float | None = None
        self.by_itself = False  # it ended before it was killed or asked to

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        if self.ended is None and self.process.poll() is not None:
            self.ended = proc.now()
            self.by_itself = True
        return self.ended is None

    def must_live(self) -> None:
        """Raises DiedError when it does not."""
        if not self.alive():
            text = f"daemon {self.number} ended with {self.process.returncode}"
            raise DiedError("\n    ".join([text, *self.log_tail()]))

    def kill(self) -> None:
        """SIGKILL, unless it is dead by itself."""
        if self.alive():
            self.process.kill()
            self.process.wait()
            self.ended = proc.now()

    def end(self, patience: float) -> int:
        """In order, by SIGTERM: brings everything down. Its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(patience)
        self.ended = proc.now()
        return code

    def serves(self, stub: pb_grpc.HostManagerServiceStub) -> bool:
        """Whether this very daemon answers, and its manager runs. Raises DiedError."""
        self.must_live()
        if not listens(self._ground):
            return False
        try:
            manager = stub.GetStatus(pb.GetStatusRequest(), timeout=5).manager
        except grpc.RpcError:
            return False
        return manager.pid == self.pid and manager.state == pb.MANAGER_STATE_RUNNING

    def log_tail(self, lines: int = 25) -> tuple[str, ...]:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return tuple(f"daemon {self.number}: {line}" for line in text)
