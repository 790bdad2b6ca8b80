"""What the referee finds: the invariants, and a violation of one with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class Invariant(Enum):
    """What must always hold, whatever dies."""

    I1 = "never two live processes for one instance"
    I2 = "an acknowledged update survives the daemon's death"
    I3 = "what runs converges to what is wanted"
    I4 = "a watch is in order, without repeats, resumable, and true; a gap is said"
    I5 = "no zombie"
    I6 = "descriptors and threads return to their baseline"
    I7 = "no signal to a stranger"
    I8 = "down means that the whole tree is gone"
    I9 = "agents do not notice the daemon's death"
    I10 = "no file outside what is ours is written, truncated or created"


class Violation(Exception):  # noqa: N818 - what is found is not an error of the finder
    """One invariant that did not hold. `evidence` are lines: of journals, of events, of the daemon's log."""

    def __init__(self, invariant: Invariant, what: str, evidence: Sequence[str] = ()) -> None:
        self.invariant = invariant
        self.what = what
        self.evidence = tuple(evidence)
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"{self.invariant.name} ({self.invariant.value}) is violated: {self.what}"]
        return "\n".join([*lines, *(f"    {line}" for line in self.evidence)])
