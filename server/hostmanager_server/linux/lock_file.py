"""Lock files, which reserve a state directory or a socket for one daemon."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from hostmanager_server.linux.trusted_paths import open_own_file


class HeldError(Exception):
    """A lock that another daemon holds; the text names the daemon."""


def take_lock_file(path: Path, flags: int = os.O_RDWR, *, any_owner: bool = False) -> int:
    """Lock a file of the daemon's, write the pid into it, and return the descriptor.

    The open descriptor holds the lock. Raises HeldError, NotOursError when the daemon must not write the
    file, or another OSError.
    """
    descriptor = open_own_file(path, flags, any_owner=any_owner)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 64).decode(errors="replace").strip()
        os.close(descriptor)
        raise HeldError(f"the daemon with pid {holder}" if holder else "another daemon") from error
    with suppress(OSError):  # full or read-only disk: the lock holds without the pid
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
