"""Named points at which a test makes the daemon die, freeze or fail.

Each stands right after the step that it is named after. None does anything unless the environment of the
daemon arms it: HOSTMANAGER_FAILPOINTS=recorded:3=kill,committed=freeze kills the daemon the third time it
has recorded a run and freezes it the first time it has committed. committing@exit_seen=kill kills it as it
commits for the first time after it has seen an exit.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

VARIABLE = "HOSTMANAGER_FAILPOINTS"


class Point(Enum):
    """A step of the daemon's work. What it does between two of them is lost when it dies there."""

    INTENT = "intent"  # the driver was asked to launch; nothing was done
    SPAWNED = "spawned"  # a child waits in the gate, and nobody has written down that it is there
    RECORDED = "recorded"  # its record is valid, and it waits in the gate
    RELEASED = "released"  # it becomes the agent
    EXIT_SEEN = "exit_seen"  # the main process has ended and was reaped; its record stands
    STOP_SENT = "stop_sent"  # a signal is on its way
    COMMITTING = "committing"  # a change is about to be written to the journal
    COMMITTED = "committed"  # it is on disk, and nobody was told


class Deed(Enum):
    """What happens at an armed point."""

    KILL = "kill"  # the daemon is ended by SIGKILL
    FREEZE = "freeze"  # the daemon is stopped by SIGSTOP, until somebody sends SIGCONT
    ENOSPC = "enospc"  # the step fails for want of space
    EMFILE = "emfile"  # the step fails for want of descriptors


@dataclass(slots=True)
class _Armed:
    count: int  # passes until it happens
    deed: Deed
    after: Point | None = None  # passes before the first of this one do not count


_armed: dict[Point, _Armed] = {}


def arm(environ: Mapping[str, str]) -> None:
    """Arm what VARIABLE names: NAME[@AFTER][:COUNT]=DEED, separated by commas. Raises ValueError."""
    for entry in filter(None, environ.get(VARIABLE, "").split(",")):
        name, _, deed = entry.partition("=")
        name, _, count = name.partition(":")
        name, _, after = name.partition("@")
        _armed[Point(name)] = _Armed(int(count or 1), Deed(deed), Point(after) if after else None)


def reached(point: Point) -> None:
    """The daemon has come to this point. Raises OSError where a test wants that."""
    if not _armed:
        return
    for waiting in _armed.values():
        if waiting.after is point:
            waiting.after = None
    if (armed := _armed.get(point)) is not None and armed.after is None:
        armed.count -= 1
        if armed.count == 0:
            _do(armed.deed)


def _do(deed: Deed) -> None:
    match deed:
        case Deed.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Deed.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Deed.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case Deed.EMFILE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
