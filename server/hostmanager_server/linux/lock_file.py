"""Lock files: which daemon uses a state directory or a socket."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from hostmanager_server.linux.trusted_paths import open_own_file


class HeldError(Exception):
    """Another daemon holds the lock; the text says which."""


def take_lock_file(path: Path, flags: int = os.O_RDWR, *, any_owner: bool = False) -> int:
    """Lock a file of ours, and write this process's pid into it; its descriptor, which holds the lock.

    Raises HeldError, NotOursError when the file may not be written, or another OSError.
    """
    descriptor = open_own_file(path, flags, any_owner=any_owner)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 64).decode(errors="replace").strip()
        os.close(descriptor)
        raise HeldError(f"the daemon with pid {holder}" if holder else "another daemon") from error
    with suppress(OSError):  # no space, or read-only: the lock holds, and cannot say whose it is
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
