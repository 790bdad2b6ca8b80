"""File modes of the journal: only the daemon's user may read its files."""

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
    """Create the journal file with mode 0600, or restrict existing files to it.

    SQLite gives the `-wal` and `-shm` files the mode of the journal file. Raises NotOursError when one of
    the three is a link or has a second name.
    """
    with suppress(OSError):  # the file exists, or SQLite reports why the file cannot be created
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for suffix in _SUFFIXES:
        file = path.with_name(path.name + suffix)
        try:
            # Not opened for reading: closing would release the locks of every connection of this process.
            place = find_own_file(file, any_owner=True)
        except NotOursError:
            raise
        except OSError:
            continue  # the file is missing, or SQLite reports why the file cannot be used
        try:
            mode = stat.S_IMODE(os.fstat(place).st_mode)
            if mode & 0o077:
                os.chmod(f"/proc/self/fd/{place}", 0o600)
                log.warning("other users could read %s (mode %04o): set its mode to 0600", file, mode)
        except OSError as error:
            log.warning("cannot keep other users from reading %s: %s", file, error.strerror)
        finally:
            os.close(place)
