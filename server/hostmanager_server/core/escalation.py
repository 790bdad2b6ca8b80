"""The stages of a stop: stop signal, TERM, KILL."""

from __future__ import annotations

import signal

from hostmanager_server.core.model import StopStage
from hostmanager_server.core.spec import StopPolicy

# The pause between two KILLs, in s, of a tree that the kernel still holds (uninterruptible sleep, forks).
KILL_REPEAT = 5.0


def next_stage(stage: StopStage | None, policy: StopPolicy) -> tuple[StopStage, int, float]:
    """Return the stage after `stage`, its signal, and the time (s) until the stage after that."""
    first = policy.signal
    if stage is None and first not in (signal.SIGTERM, signal.SIGKILL):
        return StopStage.SIGNAL, first, policy.grace
    if stage is None and first == signal.SIGTERM:
        return StopStage.TERM, signal.SIGTERM, policy.grace
    if stage is StopStage.SIGNAL:
        return StopStage.TERM, signal.SIGTERM, policy.term_grace
    return StopStage.KILL, signal.SIGKILL, KILL_REPEAT
