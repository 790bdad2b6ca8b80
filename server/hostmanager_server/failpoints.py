"""Failpoints: named steps at which a test makes the daemon die, freeze or fail.

Each failpoint stands right after the step of the same name, and does nothing unless an environment variable
of the daemon arms the failpoint. Two examples:

- HOSTMANAGER_FAILPOINTS=recorded:3=kill,committed=freeze kills the daemon at the third recorded run, and
  freezes the daemon at the first commit.
- HOSTMANAGER_FAILPOINTS=committing@exit_observed=kill kills the daemon at the first commit after the first
  observed exit.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from enum import Enum

from hostmanager.values import dataclass

VARIABLE = "HOSTMANAGER_FAILPOINTS"


class Point(Enum):
    """A step of the daemon; a daemon that dies there loses the work done since the previous step."""

    INTENT = "intent"  # the core asked the driver to launch; the driver has done nothing yet
    # A start passes RECORDED before SPAWNED, a start behind the gate after SPAWNED.
    RECORDED = (
        "recorded"  # the run has a valid record; there is no process yet, or the process waits in the gate
    )
    SPAWNED = (
        "spawned"  # the child executes the agent, and its record has the pid alone; in the gate: no record
    )
    RELEASED = "released"  # the child executes the agent, and its record names the process
    EXIT_OBSERVED = "exit_observed"  # the main process was reaped; its record still exists
    STOP_SENT = "stop_sent"  # the driver sent a signal
    COMMITTING = "committing"  # the journal is about to write a change
    COMMITTED = "committed"  # the change is on disk; no client has an answer yet


class Effect(Enum):
    """The effect of an armed failpoint."""

    KILL = "kill"  # SIGKILL ends the daemon
    FREEZE = "freeze"  # SIGSTOP stops the daemon until a SIGCONT
    ENOSPC = "enospc"  # the step fails: no space left on the device
    EMFILE = "emfile"  # the step fails: too many open files


@dataclass(slots=True)
class _Armed:
    count: int  # passes left until the effect
    effect: Effect
    after: Point | None = None  # passes count only once the daemon has passed this point


_armed: dict[Point, _Armed] = {}


def arm(environ: Mapping[str, str]) -> None:
    """Arm the failpoints that VARIABLE lists.

    The value holds NAME[@AFTER][:COUNT]=EFFECT, separated by commas. Raises ValueError for any other text.
    """
    for entry in filter(None, environ.get(VARIABLE, "").split(",")):
        name, _, effect = entry.partition("=")
        name, _, count = name.partition(":")
        name, _, after = name.partition("@")
        _armed[Point(name)] = _Armed(int(count or 1), Effect(effect), Point(after) if after else None)


def reached(point: Point) -> None:
    """Mark the point as reached, and apply the effect if a test armed the point.

    Raises OSError for the effects ENOSPC and EMFILE.
    """
    if not _armed:
        return
    for waiting in _armed.values():
        if waiting.after is point:
            waiting.after = None
    if (armed := _armed.get(point)) is not None and armed.after is None:
        armed.count -= 1
        if armed.count == 0:
            _apply(armed.effect)


def _apply(effect: Effect) -> None:
    match effect:
        case Effect.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Effect.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Effect.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case Effect.EMFILE:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
