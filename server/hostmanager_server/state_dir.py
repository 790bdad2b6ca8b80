"""The daemon's state directory, locked for its life."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


class StateDirError(Exception):
    """The state directory cannot be used; the text says why and what to do."""


class StateDir:
    """The daemon's directory, locked: one daemon per state directory.

    `inherited` is a descriptor by which an earlier life of this process may still hold the lock: so nobody
    else gets it while that life gives way to this one. A directory that was used before and has become
    read-only (a broken disk) is locked all the same: what runs can be watched and stopped without it.
    """

    def __init__(self, path: Path, inherited: int | None = None) -> None:
        self.path = path
        if inherited is not None and _is_open_as(inherited, path / "lock"):
            self._fd = inherited
            return
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = _open_lock(path / "lock")
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
        with suppress(
            OSError
        ):  # no space, or read-only: who holds it cannot be said, and is held all the same
            os.truncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    @property
    def lock(self) -> int:
        """The descriptor that holds the lock."""
        return self._fd

    def close(self) -> None:
        with suppress(OSError):  # read-only
            os.truncate(self._fd, 0)
        os.close(self._fd)


def _open_lock(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS or not file.exists():
            raise
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    log.error(
        "the state directory %s is read-only: what runs is taken back and can be stopped, nothing can be "
        "started, and what is asked for is forgotten when the daemon ends; see to that disk, and make the "
        "directory writable again",
        file.parent,
    )
    return descriptor


def _is_open_as(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False
