"""Exits and moments as JSON values, for the journal and the remembered events."""

from __future__ import annotations

from typing import Any

from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.model import Exit


def write_instant(moment: Instant) -> list[float]:
    """Return a moment as JSON values."""
    return [moment.mono, moment.wall]


def read_instant(value: Any) -> Instant:
    """Return the moment in JSON values; raise ValueError or TypeError for others."""
    mono, wall = value
    return Instant(float(mono), float(wall))


def write_exit(end: Exit) -> dict[str, Any]:
    """Return the end of a run as JSON values."""
    return {
        "code": end.status.code,
        "signal": end.status.signal,
        "out_of_memory": end.status.out_of_memory,
        "core_dumped": end.status.core_dumped,
        "limit": end.status.limit,
        "at": write_instant(end.at),
        "expected": end.expected,
        "why": end.why,
        "started": write_instant(end.started) if end.started is not None else None,
        "pid": end.pid,
        "last_output": end.last_output,
    }


def read_exit(value: Any) -> Exit:
    """Return the end of a run in JSON values; raise KeyError, ValueError or TypeError for others."""
    return Exit(
        # Rows of older versions lack what `get` reads.
        status=ExitStatus(
            value["code"],
            value["signal"],
            bool(value.get("out_of_memory")),
            bool(value.get("core_dumped")),
            str(value.get("limit", "")),
        ),
        at=read_instant(value["at"]),
        expected=bool(value["expected"]),
        why=str(value["why"]),
        started=read_instant(value["started"]) if value["started"] is not None else None,
        pid=int(value["pid"]),
        last_output=str(value.get("last_output", "")),
    )
