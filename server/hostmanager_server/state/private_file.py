"""The journal's files, which only the daemon's user may read."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from hostmanager_server.linux.trusted_paths import NotOursError, find_own_file

log = logging.getLogger(__name__)

_SUFFIXES = ("", "-wal", "-shm")


def make_private(path: Path) -> None:
    """Make the journal's file with mode 0600, which SQLite gives those beside it, too, or tighten them.

    Raises NotOursError when one of them is a link, or has another name.
    """
    with suppress(OSError):  # it is there, or SQLite tells why it cannot be made
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        try:
            # Not opened for reading: closing that would end the locks of any connection of this process.
            place = find_own_file(file, any_owner=True)
        except NotOursError:
            raise
        except OSError:
            continue  # there is none, or SQLite tells why it cannot be used
        try:
            mode = stat.S_IMODE(os.fstat(place).st_mode)
            if mode & 0o077:
                os.chmod(f"/proc/self/fd/{place}", 0o600)
                log.warning("others could read %s (mode %04o): its mode is 0600 now", file, mode)
        except OSError as error:
            log.warning("cannot keep others from reading %s: %s", file, error.strerror)
        finally:
            os.close(place)
