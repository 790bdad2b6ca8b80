"""Links in the log directory to files that are none of the daemon's, for it to leave alone (I10)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.referee.verdict import Invariant, Violation

_TEXT = b"written by the referee alone\n" * 1000


class Bait:
    """A marker file that must stay as it is, in a folder where no other file may appear.

    `copied` are instances whose output is rotated: links to the marker stand where their copies are made.
    `started` are instances that write no output: a link to a new file stands in the place of their output
    while nobody asks what runs, as their starts fail then.
    """

    def __init__(self, logs: Path, folder: Path, copied: list[str], started: list[str]) -> None:
        self._folder = folder
        self._marker = folder / "marker"
        self._copies = [logs / f"{instance}.log.copying" for instance in copied]
        self._outputs = [logs / f"{instance}.log" for instance in started]
        folder.mkdir()
        self._marker.write_bytes(_TEXT)

    def lay(self) -> None:
        """Put all the links there, in the place of what has their names."""
        for copy in self._copies:
            self._link(copy, self._marker)
        for output in self._outputs:
            self._link(output, self._folder / output.name)

    def take_from_outputs(self) -> None:
        """Let every instance start again."""
        for output in self._outputs:
            _unlink(output)

    def take_up(self) -> None:
        """Remove all the links."""
        for link in (*self._copies, *self._outputs):
            _unlink(link)

    def check(self) -> None:
        """Raises a Violation when a link was followed."""
        appeared = sorted({path.name for path in self._folder.iterdir()} - {self._marker.name})
        if appeared:
            raise Violation(
                Invariant.I10, f"files were created through links in the log directory: {appeared}"
            )
        if self._marker.read_bytes() != _TEXT:
            raise Violation(Invariant.I10, "a file was changed through a link in the log directory")

    def _link(self, place: Path, target: Path) -> None:
        new = self._folder.with_name("bait.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        with suppress(FileNotFoundError):  # no log directory yet
            os.replace(new, place)


def _unlink(place: Path) -> None:
    if place.is_symlink():
        place.unlink(missing_ok=True)
