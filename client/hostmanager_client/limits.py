"""Bounds on what a daemon may make its client keep, far beyond any honest host.

A daemon that lies, or another program at its address, cannot fill the memory of a client or keep it for ever.
"""

from __future__ import annotations

from hostmanager_client.errors import ServerBug

MOST_INSTANCES = 100_000
MOST_PAGES = 10_000
MOST_BYTES = 512 * 1024 * 1024  # of one listing, or one snapshot, on the wire
LONGEST_LINE_KEPT = 64 * 1024  # characters; the daemon splits longer ones


class ReceiveLimit:
    """Counts what comes in pieces. `what` is what the daemon sends too much of: "pages of instances"."""

    def __init__(self, what: str, *, most_pieces: int = MOST_PAGES, most_bytes: int = MOST_BYTES) -> None:
        self._what = what
        self._pieces_left = most_pieces
        self._bytes_left = most_bytes

    def count(self, size: int) -> None:
        """Count a piece of `size` bytes. Raises ServerBug when that is too much."""
        self._pieces_left -= 1
        self._bytes_left -= size
        if self._pieces_left < 0 or self._bytes_left < 0:
            raise ServerBug(
                f"cannot take all {self._what}: the daemon sends more than any host has. Check the address; "
                "another program may answer there"
            )
