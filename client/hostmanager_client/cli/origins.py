"""Words for who asked for a change, and why."""

from __future__ import annotations

from hostmanager_client.cli.escape import one_line
from hostmanager_client.words import to_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hostmanager.v1 import host_manager_pb2 as pb

_CALL = 1  # ChangeOrigin.KIND_CALL
_KINDS = {1: "call", 2: "signal", 3: "config", 4: "file", 5: "dependency"}


def origin_words(origin: pb.ChangeOrigin) -> str:
    """Return who or what asked, and the reason: `uid 0, pid 812 (hostmanager up): "valve swap"`."""
    caller = _requester_words(origin.requester) if origin.HasField("requester") else ""
    detail = one_line(origin.detail)
    match _KINDS.get(origin.kind):
        case "call":
            who = caller or "a client"
        case "signal":
            who = f"signal {detail}"
        case "config":
            who = f"site config {detail}" + (f", read for {caller}" if caller else "")
        case "file":
            who = f"changed file {detail}"
        case "dependency":
            who = f"dependency {detail}"
        case _:
            who = f"the daemon: {detail}" if detail else "the daemon"
    return f'{who}: "{one_line(origin.reason)}"' if origin.reason else who


def reason_words(instance: pb.ManagedInstance) -> str:
    """Return the reason that a client gave for the newest request to an instance, if any."""
    origins = [
        origin
        for name in ("target_origin", "restart_origin")
        if instance.HasField(name) and (origin := getattr(instance, name)).kind == _CALL
    ]
    newest = max(origins, key=lambda each: to_seconds(each.time), default=None)
    return f'reason given: "{one_line(newest.reason)}"' if newest is not None and newest.reason else ""


def _requester_words(who: pb.Requester) -> str:
    """Return the client: what the kernel told comes first, the words of the client are marked as such."""
    user, program = one_line(who.user), one_line(who.program)
    uid = f"uid {who.uid}" if who.HasField("uid") else ""
    pid = f"pid {who.pid}" if who.pid else ""
    of_program = f" ({program})" if program else ""
    claim = f"says it is {user}" if user else ""
    if who.verified:
        return ", ".join(filter(None, (uid, pid, claim))) + of_program
    claims = ", ".join(filter(None, (claim, f"says it has {pid}" if pid else "")))
    at = f"a client at {one_line(who.peer)}" if who.peer not in ("", "unix") else "a client"
    return ", ".join(filter(None, (f"{at}{f' of {uid}' if uid else ''}", claims))) + of_program
