"""The event log: its entries, their kinds and severities."""

from __future__ import annotations

from enum import Enum

from hostmanager.values import dataclass

from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Exit
from hostmanager_server.core.origin import Origin


class EntryKind(Enum):
    """The subject of an event log entry; the values are words of the wire contract."""

    DAEMON = "daemon"
    MANAGER = "manager"
    CONFIG = "config"
    REQUEST = "request"
    INSTANCE = "instance"
    LAUNCH = "launch"
    UP = "up"
    EXIT = "exit"
    START_FAILED = "start_failed"
    STOP = "stop"
    DOWN = "down"
    CONDITION = "condition"


class Severity(Enum):
    """The severity of a log entry, or of a problem in an input file."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the event log.

    `reason` is a CamelCase word for programs, listed in docs/reference/events.md; `message` is a
    sentence for people. `origin`: of the request that the event is part of.
    """

    kind: EntryKind
    reason: str
    message: str
    at: Instant
    instance_id: str = ""
    severity: Severity = Severity.INFO
    exit: Exit | None = None
    origin: Origin | None = None
