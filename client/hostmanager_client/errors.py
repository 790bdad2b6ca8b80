"""The errors that the client raises: a tree rooted at HostManagerError.

HostManagerError
├── Unreachable          no daemon answers there; trying again may help
├── DeadlineExceeded     no answer in time; whether the request was carried out is not known
├── InvalidAddress       the address cannot be understood
├── InvalidRequest       the daemon rejected the request as a whole; `violations` say why
│   └── NotFound         ... as it names instances that the daemon does not know
├── PreconditionFailed   the manager is not running, or the site config cannot be used
├── Aborted              the daemon is not the one that was meant (a stale epoch)
├── LimitExceeded        a limit of the daemon, which the message names
├── PermissionDenied     this caller may not
├── Unsupported          the daemon does not know this call: it is older than this client
├── ServerBug            the daemon failed at it; its log tells more
└── TargetNotReached     wait_for: some instances are not where they were to be
"""

# ruff: noqa: N818 -- the package says that these are errors; Unreachable and NotFound read better bare.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong with a request: the field, as in `requests[1].instance_id`, and what is wrong."""

    field: str
    description: str


class HostManagerError(Exception):
    """What every error of the client is. `str()` is a sentence for people.

    `reason` is the daemon's stable word (google.rpc.ErrorInfo), empty when it gave none; `metadata` is
    what came with it; `address` is the daemon's, empty when none was involved.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        address: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.address = address


class Unreachable(HostManagerError):
    """No daemon answers at the address, or the connection broke. Trying again may help.

    `patience`: for how long, in s, trying again soon may help; 0 when no daemon is there. `sent`: whether the
    request may have reached the daemon, which may have carried it out.
    """

    def __init__(self, message: str, *, patience: float = 0.0, sent: bool = False, **details: Any) -> None:
        super().__init__(message, **details)
        self.patience = patience
        self.sent = sent


class DeadlineExceeded(HostManagerError):
    """No answer in time. Whether the request was carried out is not known."""


class InvalidAddress(HostManagerError):
    """The address cannot be understood."""


class InvalidRequest(HostManagerError):
    """The daemon rejected the request and did nothing. `violations` has an entry for each bad entry."""


class NotFound(InvalidRequest):
    """The request names instances that the daemon does not know, and nothing was done."""


class PreconditionFailed(HostManagerError):
    """Not now: the manager is not running (or is), or the site config cannot be used."""


class Aborted(HostManagerError):
    """The daemon is not the one that was meant: its epoch is another."""


class LimitExceeded(HostManagerError):
    """A limit of the daemon, which the message names."""


class PermissionDenied(HostManagerError):
    """This caller may not do that, or not reach the daemon's socket."""


class Unsupported(HostManagerError):
    """The daemon does not know this call: it is older than this client."""


class ServerBug(HostManagerError):
    """The daemon failed at it, or answered what the contract does not allow. Its log tells more."""


@dataclass(frozen=True, slots=True)
class Unreached:
    """An instance that is not where it was to be."""

    instance_id: str
    state: str  # the OCS word of next_action; empty when the instance is not tracked
    reason: str  # the daemon's stable word, or Removed, NotFollowed, Superseded
    message: str
    hopeless: bool  # it cannot get there without somebody doing something

    def __str__(self) -> str:
        state = f" is {self.state}" if self.state else ""
        return f"{self.instance_id}{state}: {self.message or self.reason}"


class TargetNotReached(HostManagerError):
    """wait_for: some instances are not where they were to be. `unreached` says which, and why."""

    def __init__(self, message: str, unreached: Sequence[Unreached], *, address: str = "") -> None:
        super().__init__(message, address=address)
        self.unreached = tuple(unreached)
