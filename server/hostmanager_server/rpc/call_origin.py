"""The origin of a call: the reason that the client gives, and who the client is as far as anything tells."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from hostmanager_server.core.events import Instant
from hostmanager_server.core.origin import Origin, OriginKind, Requester
from hostmanager_server.linux.peer_credentials import connected_peers
from hostmanager_server.rpc.caller import Caller
from hostmanager_server.rpc.errors import FieldViolation, RpcError, invalid

MAX_REASON = 200  # characters
MAX_CLAIM = 64  # characters of each word that a client says about itself
_MAX_PID = 2**22  # the largest that Linux allows
USER_KEY, PROGRAM_KEY, PID_KEY = "hostmanager-user", "hostmanager-program", "hostmanager-pid"


def origin_of(caller: Caller, reason: str, now: Instant) -> Origin:
    """Return the origin of a call. Raises RpcError for a reason or claims that cannot be shown."""
    return Origin(OriginKind.CALL, now, check_reason(reason), requester_of(caller))


def check_reason(reason: str) -> str:
    """Return the reason; raise RpcError if too long, or with control characters."""
    return _checked(reason, "reason", MAX_REASON, "give a short sentence")


def requester_of(caller: Caller) -> Requester:
    """Return who calls.

    The client says its pid; the kernel says which processes are connected to the sockets. The pid is verified
    if only one process is connected, or if the said process is connected and all belong to one user.
    """
    claims = dict(_claims(caller.metadata))
    said = Requester(claims.get(USER_KEY, ""), claims.get(PROGRAM_KEY, ""), _pid(claims.get(PID_KEY, "")))
    if caller.client != "unix":
        return Requester(said.user, said.program, said.pid, peer=_host_and_port(caller.peer))
    peers = connected_peers() or frozenset()
    uids = {peer.uid for peer in peers}
    uid = next(iter(uids)) if len(uids) == 1 else None
    pids = {peer.pid for peer in peers}
    if len(pids) == 1 and uid is not None:
        return Requester(said.user, said.program, next(iter(pids)), uid, verified=True, peer="unix")
    verified = uid is not None and said.pid in pids
    return Requester(said.user, said.program, said.pid, uid, verified=verified, peer="unix")


def _claims(metadata: Sequence[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    found = []
    for key, value in metadata:
        if key in (USER_KEY, PROGRAM_KEY, PID_KEY):
            text = unquote_to_bytes(value).decode(errors="replace")
            found.append((key, _checked(text, key, MAX_CLAIM, "correct or omit this metadata")))
    return found


def _pid(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_PID):
        raise _refused(text, PID_KEY, "a pid is a number", "correct or omit this metadata")
    return int(text)


def _checked(text: str, field: str, longest: int, remedy: str) -> str:
    if len(text) > longest:
        raise _refused(text, field, f"the limit is {longest} characters, not {len(text)}", remedy)
    if not text.isprintable():
        raise _refused(text, field, "control and invisible characters are not allowed", remedy)
    return text


def _refused(text: str, field: str, why: str, remedy: str) -> RpcError:
    message = f"cannot take {text[:40]!r} as {field}: {why}; {remedy}"
    return invalid(message, FieldViolation(field, message))


def _host_and_port(peer: str) -> str:
    """Return `[::1]:4711` for gRPC's `ipv6:%5B::1%5D:4711`."""
    return unquote_to_bytes(peer.partition(":")[2]).decode(errors="replace")[:MAX_CLAIM]
