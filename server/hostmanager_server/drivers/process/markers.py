"""Readings of run markers in the environments of processes, and the trust in each reading."""

from __future__ import annotations

from enum import Enum

from hostmanager_server.drivers.process.membership import marker_in
from hostmanager_server.linux.pidfds import read_file

_BLANK_SCANS = 20  # scans in which a process may show neither command line nor environment


class MarkerTrust(Enum):
    """How long a reading of a process stays true."""

    SURE = "for the life of the process"
    FOR_NOW = "for this scan only"
    UNSURE = "not at all: an exec may be going on"


class MarkerReader:
    """Reads run markers in scans, and counts the scans in which a process showed no environment.

    `entry` is the inode of a process in /proc.
    """

    def __init__(self) -> None:
        self._blank: dict[tuple[str, int], int] = {}  # in how many scans a process had no environment
        self._seen: dict[tuple[str, int], int] = {}  # the same, with the present scan

    def next_scan(self) -> None:
        """Begin a scan; forget the processes that the last scan did not read."""
        self._blank, self._seen = self._seen, {}

    def read(self, name: str, entry: int) -> tuple[bytes, MarkerTrust]:
        """Return the run marker of a process, empty without one, and the trust in it.

        During an exec the environment reads empty; for a process without environment it always does. A
        process that shows a command line and no environment in two scans has none.
        """
        try:
            environ = read_file(f"/proc/{name}/environ")
            if not environ:
                scans = self._seen[name, entry] = self._blank.get((name, entry), 0) + 1
                if read_file(f"/proc/{name}/cmdline"):
                    return b"", MarkerTrust.SURE if scans > 1 else MarkerTrust.UNSURE
                return b"", MarkerTrust.FOR_NOW if scans > _BLANK_SCANS else MarkerTrust.UNSURE
        except PermissionError:
            return b"", MarkerTrust.SURE  # a process of another user: session and parent decide
        except OSError:
            return b"", MarkerTrust.UNSURE
        return marker_in(environ), MarkerTrust.SURE
