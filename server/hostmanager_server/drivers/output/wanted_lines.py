"""The lines of output that a reader wants."""

from __future__ import annotations

from hostmanager.values import dataclass


@dataclass(frozen=True, slots=True)
class WantedLines:
    """The last `lines` lines from `since` until `until`, then with `follow` every new line.

    Times are in s since 1970. Lines of unknown time that may lie in the range count. `runs_back`: only the
    output of one run, 1 for the last one, 2 for the run before; 0: of all runs.
    """

    lines: int
    follow: bool = False
    since: float | None = None
    until: float | None = None
    runs_back: int = 0


class NoSuchRunError(Exception):
    """The output of a run that the daemon does not know."""
