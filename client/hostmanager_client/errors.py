"""Errors of the client, a tree with the root HostManagerError.

HostManagerError
├── Unreachable          no daemon answers; a retry may help
├── DeadlineExceeded     no answer in time; the daemon may or may not have carried out the request
├── InvalidAddress       the address is malformed or unusable
├── InvalidRequest       the daemon rejected the request as a whole; `violations` has the reasons
│   └── NotFound         the request names unknown instances
├── PreconditionFailed   the manager is not running, or the site config is not usable
├── Aborted              another daemon runs than the caller expected (a stale epoch)
├── LimitExceeded        the request exceeds a limit of the daemon; the message names the limit
├── PermissionDenied     the caller lacks the permission
├── Unsupported          the daemon is older than this client and does not know the call
├── ServerBug            the daemon failed; its log has the details
└── TargetNotReached     wait_for: some instances did not reach their targets
"""

# ruff: noqa: N818 -- the module name has the word Error; Unreachable and NotFound read better without.

from __future__ import annotations

from hostmanager.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

LONGEST_QUOTED = 100  # characters; an id has at most 80


def quoted(text: str) -> str:
    """Return a text of a caller in quotes, cut when it is too long for an id."""
    if len(text) <= LONGEST_QUOTED:
        return repr(text)
    return f"{text[:LONGEST_QUOTED]!r}… ({len(text)} characters)"


@dataclass(frozen=True, slots=True)
class Violation:
    """A bad field of a request, such as `requests[1].instance_id`, and its problem."""

    field: str
    description: str


class HostManagerError(Exception):
    """Base class of all errors of the client; `str()` is a sentence for people.

    `reason` is a stable word: that of the daemon (google.rpc.ErrorInfo), else REASON of the class. `metadata`
    belongs to the reason. `address` is the address of the daemon, empty if no daemon was involved.
    """

    REASON = "FAILED"

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
        self.reason = reason or self.REASON
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.address = address


class Unreachable(HostManagerError):
    """No daemon answers at the address, or the connection broke; a retry may help.

    `patience`: time in s for which retries may help; 0 if no daemon runs. `sent`: True if the request may
    have reached the daemon, which may have carried out the request.
    """

    REASON = "UNREACHABLE"

    def __init__(self, message: str, *, patience: float = 0.0, sent: bool = False, **details: Any) -> None:
        super().__init__(message, **details)
        self.patience = patience
        self.sent = sent


class DeadlineExceeded(HostManagerError):
    """No answer in time; the daemon may or may not have carried out the request."""

    REASON = "DEADLINE_EXCEEDED"


class InvalidAddress(HostManagerError):
    """The address is malformed or unusable."""

    REASON = "INVALID_ADDRESS"


class InvalidRequest(HostManagerError):
    """The daemon rejected the request and did nothing; `violations` lists the bad fields."""

    REASON = "INVALID_REQUEST"


class NotFound(InvalidRequest):
    """The request names unknown instances; the daemon did nothing."""

    REASON = "NOT_FOUND"


class PreconditionFailed(HostManagerError):
    """The manager is in the wrong state for the request, or the site config is not usable."""

    REASON = "FAILED_PRECONDITION"


class Aborted(HostManagerError):
    """Another daemon runs than the caller expected: the epochs differ."""

    REASON = "ABORTED"


class LimitExceeded(HostManagerError):
    """The request exceeds a limit of the daemon; the message names the limit."""

    REASON = "LIMIT_REACHED"


class PermissionDenied(HostManagerError):
    """The caller lacks the permission for the request, or for the socket of the daemon."""

    REASON = "PERMISSION_DENIED"


class Unsupported(HostManagerError):
    """The daemon is older than this client and does not know the call."""

    REASON = "UNSUPPORTED"


class ServerBug(HostManagerError):
    """The daemon failed or broke the contract; its log has the details."""

    REASON = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Unreached:
    """An instance that did not reach its target."""

    instance_id: str
    state: str  # the OCS word of next_action; empty when the instance is not tracked
    reason: str  # the daemon's stable word, or Removed, NotFollowed, Superseded
    message: str
    hopeless: bool  # only a further request or a new config can bring the instance to the target

    def __str__(self) -> str:
        state = f" is {self.state}" if self.state else ""
        return f"{self.instance_id}{state}: {self.message or self.reason}"


class TargetNotReached(HostManagerError):
    """Some instances of a wait_for did not reach their targets; `unreached` has the reasons."""

    REASON = "TARGET_NOT_REACHED"

    def __init__(self, message: str, unreached: Sequence[Unreached], *, address: str = "") -> None:
        super().__init__(message, address=address)
        self.unreached = tuple(unreached)
