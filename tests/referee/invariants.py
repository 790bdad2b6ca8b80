"""The invariants of the daemon, and violations with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class Invariant(Enum):
    """A property that must hold whichever process dies."""

    I1 = "never two live processes for one instance"
    I2 = "an acknowledged update survives the daemon's death"
    I3 = "instances converge to their targets"
    I4 = "a watch is in order, without repeats, resumable and true; gaps are reported"
    I5 = "no zombie"
    I6 = "descriptors and threads return to their baseline"
    I7 = "no signal to an unrelated process"
    I8 = "down means that the whole process tree is gone"
    I9 = "agents do not notice the daemon's death"
    I10 = "no file of other users is written, truncated or created"


class Breach(Exception):  # noqa: N818 - no error of the referee
    """An invariant that did not hold, with lines of journals, events and daemon logs as evidence."""

    def __init__(self, invariant: Invariant, what: str, evidence: Sequence[str] = ()) -> None:
        self.invariant = invariant
        self.what = what
        self.evidence = tuple(evidence)
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{self.invariant.name} ({self.invariant.value}) is violated: {self.what}"]
        return "\n".join([*lines, *(f"    {line}" for line in self.evidence)])
