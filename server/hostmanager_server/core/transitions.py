"""The table of allowed state transitions, each with its cause.

The tests hold core/lifecycle.py to the table: each transition happens, and no other. scripts/draw_states.py
draws the diagram in docs/reference/states.md from the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from hostmanager_server.core.model import State

TRANSITIONS: Mapping[State, Mapping[State, str]] = {
    State.DOWN: {
        State.START: "target is up",
        State.START_AT: "target is up, after a failure",
        State.UP: "found running",
        State.WAIT_START: "found running, just started",
        State.UNKNOWN: "no command",
        State.WAIT_DEAD: "the service has containers left",
    },
    State.START_AT: {
        State.START: "the backoff is over",
        State.DOWN: "no longer wanted, or no command",
    },
    State.START: {
        State.WAIT_START: "launch",
        State.DOWN: "no longer wanted, or no command",
    },
    State.WAIT_START: {
        State.UP: "ready, or no longer paused",
        State.START_AT: "start failed",
        State.WAIT_DEAD: "timed out, no longer wanted, or main process ended before its tree",
        State.DOWN: "ended, no restart",
    },
    State.UP: {
        State.WAIT_START: "paused",
        State.START_AT: "ended, restart follows",
        State.WAIT_DEAD: "stop, or main process ended before its tree",
        State.DOWN: "ended, no restart",
    },
    State.WAIT_DEAD: {State.DOWN: "the whole tree is gone"},
    State.UNKNOWN: {State.DOWN: "a command was found, or a run"},
}
