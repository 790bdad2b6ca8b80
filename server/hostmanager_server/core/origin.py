"""The origin of a change: who or what asked for it, and why."""

from __future__ import annotations

from enum import Enum

from hostmanager.values import dataclass, replace

from hostmanager_server.core.events import Instant

MOST_DETAIL = 200  # characters


class OriginKind(Enum):
    """The kind of an origin; the values are words of the wire contract."""

    CALL = "call"
    SIGNAL = "signal"
    CONFIG = "config"
    FILE = "file"
    DEPENDENCY = "dependency"
    DAEMON = "daemon"


@dataclass(frozen=True, slots=True)
class Requester:
    """The client of a call.

    `user` and `program` are words of the client. `verified`: the kernel told `pid` (0: unknown) and `uid`.
    """

    user: str = ""
    program: str = ""
    pid: int = 0
    uid: int | None = None
    verified: bool = False
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who or what asked for a change.

    `reason` has the words of the client, `detail` a signal, a file, a dependency, or why the daemon acts.
    """

    kind: OriginKind
    at: Instant
    reason: str = ""
    requester: Requester | None = None
    detail: str = ""

    def of_config(self, file: str) -> Origin:
        """Return the origin of the changes that a read of the site config makes on this one's behalf."""
        return replace(self, kind=OriginKind.CONFIG, detail=file)


@dataclass(frozen=True, slots=True)
class RequestOrigins:
    """The origins of the target of an instance and of its last restart, where known."""

    target: Origin | None = None
    restart: Origin | None = None

    @property
    def newest(self) -> Origin | None:
        """The later one."""
        if self.target is None or self.restart is None:
            return self.target or self.restart
        return max(self.target, self.restart, key=lambda each: each.at.wall)


NO_ORIGINS = RequestOrigins()
