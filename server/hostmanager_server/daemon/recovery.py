"""The choice of targets and histories to recover from the previous daemon."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import assert_never

from hostmanager.values import dataclass

from hostmanager_server.config.manager_options import PersistTargets
from hostmanager_server.core.manager_status import ManagerState
from hostmanager_server.linux.pidfds import boot_id
from hostmanager_server.state.journal import Journal
from hostmanager_server.state.journal_contents import JournalContents
from hostmanager_server.state.state_directory import StateDirError
from hostmanager_server.supervisor import Recovered


@dataclass(frozen=True, slots=True)
class JournalRecovery:
    """The part of the previous daemon's state that the new daemon keeps."""

    state: Recovered  # for the supervisor
    crashed: bool  # the previous daemon ran in this boot, and died or upgraded instead of ending in order
    keeps_targets: bool
    manager_stopped: bool  # clients had stopped the manager, or were stopping the manager


def open_journal(state_dir: Path) -> tuple[Journal, JournalContents]:
    """Open the journal in a state directory.

    Raises StateDirError if the file cannot be used.
    """
    journal = Journal(state_dir / "journal.sqlite", boot_id())
    try:
        return journal, journal.open()
    except (sqlite3.Error, OSError) as error:
        raise StateDirError(f"cannot use the state directory {state_dir}: journal: {error}") from error


def recover(contents: JournalContents, persist: PersistTargets, *, has_records: bool) -> JournalRecovery:
    """Decide which state of the previous daemon the new one keeps.

    Histories survive a crash only. `has_records` tells whether the state directory has runtime records: an
    earlier daemon used the directory.
    """
    crashed = not contents.ended and contents.boot_id == boot_id()
    keeps_targets = _keeps_targets(contents, persist, crashed=crashed)
    state = Recovered(
        contents.targets if keeps_targets else {},
        contents.histories if crashed else {},
        contents.holds,  # an order with an end: only its end, its release or another config ends a hold
        _why_lost(contents, has_records=has_records),
        contents.origins if keeps_targets else {},
    )
    stopped = (crashed or keeps_targets) and contents.manager is not ManagerState.RUNNING
    return JournalRecovery(state, crashed, keeps_targets, stopped)


def _keeps_targets(contents: JournalContents, persist: PersistTargets, *, crashed: bool) -> bool:
    """Return whether targets set under the previous daemon stay in force.

    By default, as in OCS, the config sets the targets after an orderly end of the daemon and after a reboot.
    """
    if contents.new:
        return False
    match persist:
        case PersistTargets.NEVER:
            return False
        case PersistTargets.CRASH:
            return crashed
        case PersistTargets.ALWAYS:
            return True
    assert_never(persist)


def _why_lost(contents: JournalContents, *, has_records: bool) -> str:
    if contents.lost:
        return f"cannot use the journal: {contents.lost}"
    if contents.new and has_records:
        return "the journal of the previous daemon is missing"
    return ""
