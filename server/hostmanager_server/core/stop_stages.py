"""The order of the steps of a stop: signal, TERM, KILL."""

from __future__ import annotations

import signal

from hostmanager_server.core.model import StopStage

# The pause between two KILLs, in s, of a tree that the kernel still holds (uninterruptible sleep, forks).
KILL_REPEAT = 5.0


def next_stage(
    stage: StopStage | None, first: int, grace: float, term_grace: float
) -> tuple[StopStage, int, float]:
    """Return the step after `stage` (None: before the first), its signal, and the wait after it in s."""
    if stage is None and first not in (signal.SIGTERM, signal.SIGKILL):
        return StopStage.SIGNAL, first, grace
    if stage is None and first == signal.SIGTERM:
        return StopStage.TERM, signal.SIGTERM, grace
    if stage is StopStage.SIGNAL:
        return StopStage.TERM, signal.SIGTERM, term_grace
    return StopStage.KILL, signal.SIGKILL, KILL_REPEAT
