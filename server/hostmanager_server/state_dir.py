"""The daemon's state directory, locked for its life."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class StateDirError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class StateDir:
    """The daemon's directory, locked: one daemon per state directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(
                f"cannot use the state directory {path}: {error.strerror}: {error.filename}; "
                "choose another with --state-dir"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._fd, 64).decode(errors="replace").strip()
            os.close(self._fd)
            who = f"the daemon with pid {holder}" if holder else "another daemon"
            raise StateDirError(
                f"cannot use the state directory {path}: {who} holds it; "
                "stop that one first, or choose another with --state-dir"
            ) from error
        os.truncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.truncate(self._fd, 0)
        os.close(self._fd)
