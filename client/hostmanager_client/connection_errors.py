"""Causes of failed connections, derived from the error texts of gRPC.

gRPC reports the cause of a failed connection only in the text of a status. The tests provoke each cause on
grpcio 1.85.3 with tests/client/broken_peers.py; older releases use the same words.
"""

from __future__ import annotations

import os
import re

from hostmanager.values import dataclass

from hostmanager_client.errors import (
    HostManagerError,
    LimitExceeded,
    PermissionDenied,
    ServerBug,
    Unreachable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager_client.address import Address

FOR_EVER = float("inf")
# Time in s for which retries help while a daemon ends or restarts.
_CLOSING = 3.0

_START = (
    "Start the daemon with `hostmanager serve SITE.yaml`, or name its address with --address "
    "or HOSTMANAGER_ADDRESS"
)
_FROZEN = (
    "It may be stopped (SIGSTOP, a debugger), or its machine may be very busy: check its process there, "
    "and try again with a longer timeout"
)
_FOREIGN = "No HostManager daemon listens there, or a proxy is in the way. Check the address"


@dataclass(frozen=True, slots=True)
class ConnectionFailure:
    """Cause of a failed connection. `patience` and `sent` are those of Unreachable."""

    why: str
    kind: type[HostManagerError] = Unreachable
    patience: float = 0.0
    sent: bool = False


_SILENT = ConnectionFailure(f"it does not answer. {_FROZEN}", patience=FOR_EVER)
_PING = ConnectionFailure(
    f"it answered no ping for too long, or the network is down. {_FROZEN}", patience=_CLOSING, sent=True
)
_OVERLOADED = ConnectionFailure(
    "it is overloaded and cancelled the call. Try again in a moment",
    patience=FOR_EVER, sent=True,
)  # fmt: skip
_REFUSED_STREAM = ConnectionFailure(
    "it accepts no more calls for now. Try again in a moment", patience=FOR_EVER
)
_CLOSED_AT_ONCE = ConnectionFailure(
    "it closed the connection at once. It may be starting or ending, or have its maximum number of "
    "connections: try again in a moment",
    patience=_CLOSING,
)
_LOST = ConnectionFailure(
    "it closed the connection. It may have been stopped; try again", patience=_CLOSING, sent=True
)
_TOO_LARGE = ConnectionFailure("its answer is larger than the limit of this client", ServerBug, sent=True)
_REQUEST_TOO_LARGE = ConnectionFailure(
    "the request is larger than the limit of the daemon. Send it in smaller parts", LimitExceeded
)
_LONG_ERROR = ConnectionFailure("it refused with an error that is too long to transmit", ServerBug, sent=True)
_UNREADABLE = ConnectionFailure(
    f"its answer is unreadable: it may be another program, or much newer than this client. {_FOREIGN}",
    ServerBug, sent=True,
)  # fmt: skip
_FOREIGN_SERVER = ConnectionFailure(f"another program answers. {_FOREIGN}")
_PROXY = ConnectionFailure(f"a proxy answers instead. {_FOREIGN}", patience=_CLOSING, sent=True)
_NO_ROUTE = ConnectionFailure("its machine is unreachable. Check the address and the network")

# The first match counts. Any status may carry these texts.
_BY_TEXT: tuple[tuple[str, ConnectionFailure], ...] = (
    (r"CLIENT: Received message larger", _TOO_LARGE),
    (r"SERVER: Received message larger", _REQUEST_TOO_LARGE),
    (r"metadata size exceeds", _LONG_ERROR),
    (r"deserializing response|END_STREAM flag received", _UNREADABLE),
    (r"header with status: (429|50[234])", _PROXY),
    (r"header with status|No status received|Failed parsing HTTP/2|http1\.x server|Expected SETTINGS",
     _FOREIGN_SERVER),
    (r"before receiving SETTINGS", _SILENT),
    (r"[Pp]ing timeout|[Kk]eepalive", _PING),
    (r"error code 7\b", _REFUSED_STREAM),
    (r"error code 8\b", _OVERLOADED),
    (r"^[Ss]tream removed|RST_STREAM", _LOST),
)  # fmt: skip
# Less specific texts, which gRPC uses with UNAVAILABLE.
_BY_TEXT_OF_UNAVAILABLE: tuple[tuple[str, ConnectionFailure], ...] = (
    (r"No route to host|[Nn]etwork is unreachable|Host is down", _NO_ROUTE),
    # The connection queue of the unix socket is full.
    (r"endpoint is not connected|temporarily unavailable", _SILENT),
    (r"connect.*tim(ed|e) ?out", _SILENT),
    (r"failed to connect.*(reset by peer|[Ss]ocket closed|EOF|[Bb]roken pipe)", _CLOSED_AT_ONCE),
    (r"(ocket|ransport) closed|ndpoint clos|GOAWAY|reset by peer|roken pipe|EOF|hut ?down|closing", _LOST),
)  # fmt: skip


def connection_failure(code: str, text: str, address: Address) -> ConnectionFailure | None:
    """Return the cause of a status that did not come from the daemon; None for other statuses."""
    if code == "DEADLINE_EXCEEDED":  # its text may belong to a stream reset by the daemon
        return None
    for pattern, failure in _BY_TEXT:
        if re.search(pattern, text):
            return failure
    match code:
        case "CANCELLED":
            return _OVERLOADED
        case "UNAVAILABLE":
            return _unavailable(text, address)
    return None


def _unavailable(text: str, address: Address) -> ConnectionFailure:
    if address.is_unix and (failure := _no_socket(address)) is not None:
        return failure
    if "Permission denied" in text:
        return ConnectionFailure(_not_allowed("the socket belongs to another user"), PermissionDenied)
    if "refused" in text:
        cause = "no process listens on the socket" if address.is_unix else "connection refused"
        return ConnectionFailure(f"{cause}. {_START}")
    if address.host and re.search(r"DNS|resolution|resolv", text):
        return ConnectionFailure(f"the host name {address.host!r} cannot be resolved. Check the address")
    for pattern, failure in _BY_TEXT_OF_UNAVAILABLE:
        if re.search(pattern, text):
            return failure
    if "No such file" in text:  # but the socket exists by now, as the daemon starts
        return ConnectionFailure(f"no such socket a moment ago. {_START}", patience=_CLOSING)
    last = re.sub(r"^[A-Z_]+: ", "", text.rsplit("last error: ", 1)[-1]) or "no answer"
    return ConnectionFailure(f"{last}. {_START}", sent="failed to connect" not in text)


def _no_socket(address: Address) -> ConnectionFailure | None:
    try:
        os.stat(address.path)
    except FileNotFoundError:
        return ConnectionFailure(f"no such socket. {_START}")
    except NotADirectoryError:
        return ConnectionFailure(f"no such socket, as a part of its path is not a directory. {_START}")
    except PermissionError:
        return ConnectionFailure(_not_allowed("you may not enter its directory"), PermissionDenied)
    except OSError as error:
        return ConnectionFailure(f"{error.strerror}. {_START}")
    return None


def _not_allowed(why: str) -> str:
    return f"permission denied, {why}. Run the command as the user of the daemon"
