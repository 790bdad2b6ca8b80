"""Links in the log directory that the daemon must not follow (I10)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from tests.referee.invariants import Breach, Invariant

_TEXT = b"only the referee writes this file\n" * 1000


class PlantedLinks:
    """Links to a marker file, which must not change, in a folder where no other file may appear.

    `copied` names instances with rotated output: links to the marker take the place of their copies.
    `started` names instances without output: links to a new file take the place of their output files. Their
    starts fail meanwhile, so the links exist only while no check compares targets.
    """

    def __init__(self, logs: Path, folder: Path, copied: list[str], started: list[str]) -> None:
        self._folder = folder
        self._marker = folder / "marker"
        self._copies = [logs / f"{instance}.log.copying" for instance in copied]
        self._outputs = [logs / f"{instance}.log" for instance in started]
        folder.mkdir()
        self._marker.write_bytes(_TEXT)

    def plant(self) -> None:
        """Create all links, in place of present files."""
        for copy in self._copies:
            self._link(copy, self._marker)
        for output in self._outputs:
            self._link(output, self._folder / output.name)

    def remove_output_links(self) -> None:
        """Remove the links that keep instances from starting."""
        for output in self._outputs:
            _unlink(output)

    def remove(self) -> None:
        """Remove all links."""
        for link in (*self._copies, *self._outputs):
            _unlink(link)

    def check(self) -> None:
        """Raise a Breach if the daemon followed a link."""
        appeared = sorted({path.name for path in self._folder.iterdir()} - {self._marker.name})
        if appeared:
            raise Breach(Invariant.I10, f"files were created through links in the log directory: {appeared}")
        if self._marker.read_bytes() != _TEXT:
            raise Breach(Invariant.I10, "a file was changed through a link in the log directory")

    def _link(self, place: Path, target: Path) -> None:
        new = self._folder.with_name("link.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        with suppress(FileNotFoundError):  # no log directory yet
            os.replace(new, place)


def _unlink(place: Path) -> None:
    if place.is_symlink():
        place.unlink(missing_ok=True)
