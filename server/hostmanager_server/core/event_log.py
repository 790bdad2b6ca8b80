"""The event log: its entries, their kinds and severities."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hostmanager_server.core.events import Instant
from hostmanager_server.core.model import Exit


class EntryKind(Enum):
    """What an event of the log is about."""

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


class Severity(Enum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Put something that happened into the event log."""

    kind: EntryKind
    reason: str
    message: str
    at: Instant
    instance_id: str = ""
    severity: Severity = Severity.INFO
    exit: Exit | None = None
