"""Runtime records that somebody removed while their runs go on.

Whoever belongs to a run holds its record open, and what is held open can be read, and its lock be tried,
also when it is in no directory any more.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from . import gate

_REMOVED = " (deleted)"  # what /proc appends to the path that such a file had


def find_removed(directory: Path) -> Iterator[tuple[str, int]]:
    """The path that each file had which was removed from `directory` and has its lock still held, and a
    descriptor of it for the caller to close. Raises OSError (no descriptors)."""
    parent = os.path.realpath(directory)
    seen: set[tuple[int, int]] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        link = f"/proc/{name}/fd/{gate.lock_descriptor()}"
        try:
            path = os.readlink(link)
            if not path.endswith(_REMOVED) or os.path.dirname(path) != parent:
                continue
            file = os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has none, is gone, or is another user's and so not of a run of ours
        info = os.fstat(file)
        who = info.st_dev, info.st_ino
        # A path is easily forged in a mount namespace, an owner is not.
        if who not in seen and info.st_uid == os.geteuid() and not info.st_nlink and is_locked(file):
            seen.add(who)
            yield str(directory / os.path.basename(path).removesuffix(_REMOVED)), file
        else:
            os.close(file)


def is_locked(file: int) -> bool:
    """Whether anybody holds the lock of an open file. If not, this descriptor does from now on."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
