"""Exits, moments and origins as JSON values, for the journal and the remembered events."""

from __future__ import annotations

from typing import Any

from hostmanager_server.core.events import ExitStatus, Instant
from hostmanager_server.core.model import Exit
from hostmanager_server.core.origin import Origin, OriginKind, Requester


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
        "failed": end.failed,
        "cause": end.cause,
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
        failed=str(value.get("failed", "")),
        cause=str(value.get("cause", "")),
    )


def write_origin(origin: Origin) -> dict[str, Any]:
    """Return the origin of a change as JSON values."""
    values: dict[str, Any] = {"kind": origin.kind.value, "at": write_instant(origin.at)}
    if origin.reason:
        values["reason"] = origin.reason
    if origin.detail:
        values["detail"] = origin.detail
    if (who := origin.requester) is not None:
        values["who"] = [who.user, who.program, who.pid, who.uid, who.verified, who.peer]
    return values


def read_origin(value: Any) -> Origin:
    """Return the origin in JSON values; raise KeyError, ValueError or TypeError for others."""
    requester = None
    if "who" in value:
        user, program, pid, uid, verified, peer = value["who"]
        known = int(uid) if uid is not None else None
        requester = Requester(str(user), str(program), int(pid), known, bool(verified), str(peer))
    reason, detail = str(value.get("reason", "")), str(value.get("detail", ""))
    return Origin(OriginKind(value["kind"]), read_instant(value["at"]), reason, requester, detail)
