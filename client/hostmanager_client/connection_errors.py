"""Failed connections, from gRPC's texts to causes and remedies.

gRPC says why a connection failed in the text of a status alone. Each kind here was provoked on grpcio 1.85.3
(tests/client/broken_peers.py does so again); older releases use the same words.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostmanager_client.errors import HostManagerError, PermissionDenied, ServerBug, Unreachable

if TYPE_CHECKING:
    import grpc

    from hostmanager_client.address import Address

FOR_EVER = float("inf")
# A daemon that ends or restarts closes connections; trying longer than this helps no caller, s.
_CLOSING = 3.0

_START = (
    "Is it running? Start it with `hostmanager serve SITE.yaml`, or say where it is with --address "
    "or HOSTMANAGER_ADDRESS"
)
_FROZEN = (
    "It may be stopped (SIGSTOP, a debugger), or its machine very busy: look at its process there, "
    "and try again, with a longer timeout if need be"
)
_FOREIGN = "No HostManager daemon listens there, or a proxy stands before it. Check the address"


@dataclass(frozen=True, slots=True)
class ConnectionFailure:
    """Cause of a failed connection. `patience` and `sent` are those of Unreachable."""

    why: str
    kind: type[HostManagerError] = Unreachable
    patience: float = 0.0
    sent: bool = False


_SILENT = ConnectionFailure(f"it does not answer. {_FROZEN}", patience=FOR_EVER)
_PING = ConnectionFailure(
    f"it gave no sign of life for too long, or the network is cut. {_FROZEN}", patience=_CLOSING, sent=True
)
_OVERLOADED = ConnectionFailure(
    "it gave up the call, as it has more to do than it can. Try again in a moment",
    patience=FOR_EVER, sent=True,
)  # fmt: skip
_REFUSED_STREAM = ConnectionFailure(
    "it takes no more calls for now. Try again in a moment", patience=FOR_EVER
)
_CLOSED_AT_ONCE = ConnectionFailure(
    "it closed the connection at once. It may be starting or ending, or have as many connections as it "
    "takes: try again in a moment",
    patience=_CLOSING,
)
_LOST = ConnectionFailure(
    "it closed the connection. It may have been stopped; try again", patience=_CLOSING, sent=True
)
_TOO_LARGE = ConnectionFailure("its answer is larger than this client takes", ServerBug, sent=True)
_LONG_ERROR = ConnectionFailure("it refused with an error that is too long to arrive", ServerBug, sent=True)
_UNREADABLE = ConnectionFailure(
    f"its answer cannot be read: it is another program, or much newer than this client. {_FOREIGN}",
    ServerBug, sent=True,
)  # fmt: skip
_FOREIGN_SERVER = ConnectionFailure(f"something else answers. {_FOREIGN}")
_PROXY = ConnectionFailure(f"something on the way answers for it. {_FOREIGN}", patience=_CLOSING, sent=True)
_NO_ROUTE = ConnectionFailure("its machine is not reachable from here. Check the address and the network")

# First match counts. Any status may carry these texts.
_BY_TEXT: tuple[tuple[str, ConnectionFailure], ...] = (
    (r"CLIENT: Received message larger", _TOO_LARGE),
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
# Looser words, which gRPC uses with UNAVAILABLE.
_BY_TEXT_OF_UNAVAILABLE: tuple[tuple[str, ConnectionFailure], ...] = (
    (r"No route to host|[Nn]etwork is unreachable|Host is down", _NO_ROUTE),
    # A unix socket whose queue of connections is full.
    (r"endpoint is not connected|temporarily unavailable", _SILENT),
    (r"connect.*tim(ed|e) ?out", _SILENT),
    (r"failed to connect.*(reset by peer|[Ss]ocket closed|EOF|[Bb]roken pipe)", _CLOSED_AT_ONCE),
    (r"[Ss]ocket closed|[Ee]ndpoint clos|GOAWAY|reset by peer|[Bb]roken pipe|EOF|[Ss]hut ?down|closing",
     _LOST),
)  # fmt: skip


def connection_failure(code: grpc.StatusCode, text: str, address: Address) -> ConnectionFailure | None:
    """Cause of a status that the daemon did not send itself; None for a status without such a cause."""
    if code.name == "DEADLINE_EXCEEDED":  # its text may be of the stream that the daemon reset in turn
        return None
    for pattern, failure in _BY_TEXT:
        if re.search(pattern, text):
            return failure
    match code.name:
        case "CANCELLED":
            return _OVERLOADED
        case "UNAVAILABLE":
            return _unavailable(text, address)
    return None


def _unavailable(text: str, address: Address) -> ConnectionFailure:
    if address.is_unix and (failure := _no_socket(address)) is not None:
        return failure
    if "Permission denied" in text:
        return ConnectionFailure(_not_allowed("the socket is not yours"), PermissionDenied)
    if "refused" in text:
        left = "a socket is there but nothing listens on it" if address.is_unix else "connection refused"
        return ConnectionFailure(f"{left}. {_START}")
    if address.host and re.search(r"DNS|resolution|resolv", text):
        return ConnectionFailure(f"the host name {address.host!r} cannot be resolved. Check the address")
    for pattern, failure in _BY_TEXT_OF_UNAVAILABLE:
        if re.search(pattern, text):
            return failure
    if "No such file" in text:  # but there is by now: the daemon is just starting
        return ConnectionFailure(f"no such socket a moment ago. {_START}", patience=_CLOSING)
    last = re.sub(r"^[A-Z_]+: ", "", text.rsplit("last error: ", 1)[-1]) or "no answer"
    return ConnectionFailure(f"{last}. {_START}", sent="failed to connect" not in text)


def _no_socket(address: Address) -> ConnectionFailure | None:
    try:
        os.stat(address.path)
    except FileNotFoundError:
        return ConnectionFailure(f"no such socket. {_START}")
    except NotADirectoryError:
        return ConnectionFailure(f"no such socket, as a part of its path is no directory. {_START}")
    except PermissionError:
        return ConnectionFailure(_not_allowed("its directory is closed to you"), PermissionDenied)
    except OSError as error:
        return ConnectionFailure(f"{error.strerror}. {_START}")
    return None


def _not_allowed(why: str) -> str:
    return f"permission denied, {why}. Run as the user that runs the daemon"
