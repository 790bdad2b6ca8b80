"""What of the daemon before this one holds under this one."""

from __future__ import annotations

from typing import assert_never

from hostmanager_server.config.manager_options import PersistTargets
from hostmanager_server.state.journal import JournalContents
from hostmanager_server.supervisor import Recovered


def targets_survive(recovered: JournalContents, persist: PersistTargets, *, died: bool) -> bool:
    """Whether the targets asked of the daemon before this one hold. By default as in OCS: a daemon that was
    asked to end, or another boot, starts from the config."""
    if recovered.new:
        return False
    match persist:
        case PersistTargets.NEVER:
            return False
        case PersistTargets.CRASH:
            return died
        case PersistTargets.ALWAYS:
            return True
    assert_never(persist)


def recovered_state(recovered: JournalContents, *, targets: bool, histories: bool, used: bool) -> Recovered:
    """What is taken over of it; `used`: there was a daemon on this state directory before."""
    lost = ""
    if recovered.lost:
        lost = f"the journal could not be used: {recovered.lost}"
    elif recovered.new and used:
        lost = "the journal of the daemon before this one is gone"
    return Recovered(recovered.targets if targets else {}, recovered.histories if histories else {}, lost)
