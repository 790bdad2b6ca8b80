"""Limits on received data, far beyond the needs of any real host.

The limits protect the memory and the time of a client from a lying daemon, or from another program at the
address of the daemon.
"""

from __future__ import annotations

from hostmanager_client.errors import ServerBug

MOST_INSTANCES = 100_000
MOST_PAGES = 10_000
MOST_BYTES = 512 * 1024 * 1024  # of one listing, or one snapshot, on the wire
LONGEST_LINE_KEPT = 64 * 1024  # characters; the daemon splits longer ones


class ReceiveLimit:
    """A limit on data that arrives in pieces; `what` names the data, as in "pages of instances"."""

    def __init__(self, what: str, *, most_pieces: int = MOST_PAGES, most_bytes: int = MOST_BYTES) -> None:
        self._what = what
        self._pieces_left = most_pieces
        self._bytes_left = most_bytes

    def count(self, size: int) -> None:
        """Count a piece of `size` bytes; raise ServerBug beyond the limit."""
        self._pieces_left -= 1
        self._bytes_left -= size
        if self._pieces_left < 0 or self._bytes_left < 0:
            raise ServerBug(
                f"cannot receive all {self._what}: the daemon sends more than any host has. "
                "Check the address; another program may answer there"
            )
