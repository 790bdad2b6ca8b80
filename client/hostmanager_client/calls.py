"""Unary calls: requests, deadlines and the words for a failure, and listings in pages."""

from __future__ import annotations

from _collections_abc import Iterable, Mapping, Sequence  # `collections` takes as long as a call

from hostmanager.values import dataclass

from hostmanager_client.errors import InvalidRequest, quoted
from hostmanager_client.receive_limits import ReceiveLimit
from hostmanager_client.seconds import LONGEST_TIMEOUT, in_seconds
from hostmanager_client.selectors import Selector, split

TYPE_CHECKING = False  # `typing` and the stubs have a cost that short commands need not pay
if TYPE_CHECKING:
    from typing import Any, Generic, TypeAlias, TypeVar

    from google.protobuf.message import Message
    from hostmanager.v1 import host_manager_pb2 as pb

    Response = TypeVar("Response", bound=Message)
    Target: TypeAlias = pb.TargetState.ValueType
    UP, DOWN = pb.TARGET_STATE_UP, pb.TARGET_STATE_DOWN

    class _Answered(Generic[Response]):
        """A call with a type of answer."""
else:
    Target, UP, DOWN = int, 1, 2  # the numbers of the contract never change
    Response = object

    class _Answered:
        def __class_getitem__(cls, response):
            return cls


MAX_IDS = 1000  # ids that the daemon accepts in one request
PLAIN_TIMEOUT = 10.0  # s
LONGEST_WINDOW = 10.0  # s between two measurements
# A full stop takes as long as the slowest instance: the sum of its stop graces.
STOP_TIMEOUT = 120.0  # s
UPGRADE_TIMEOUT = 60.0  # s; the daemon first checks that the new code starts

# One id (or "all", or a Selector) and its target, as a number of the contract or as its word, "up" or "down".
Change = tuple[str, "Target | str"]
TargetRequests = Mapping[str, "Target | str"] | Iterable[Change]
_TARGETS: Mapping[object, Target] = {"up": UP, "down": DOWN, UP: UP, DOWN: DOWN}


@dataclass(frozen=True, slots=True)
class UnaryCall(_Answered[Response]):
    """One unary call; `what` completes the sentence "cannot ..." of its errors.

    `request` has the fields of the request, with mappings for messages.
    """

    method: str
    request: Mapping[str, Any]
    what: str
    timeout: float
    changes: bool = False  # changes something on the host; other calls may be repeated


def get_status() -> UnaryCall[pb.GetStatusResponse]:
    """Return the call of GetStatus."""
    return UnaryCall("GetStatus", {}, "get the status", PLAIN_TIMEOUT)


def get_instance(instance_id: str) -> UnaryCall[pb.GetInstanceResponse]:
    """Return the call of GetInstance."""
    what = f"get {quoted(instance_id)}"
    return UnaryCall("GetInstance", {"instance_id": instance_id}, what, PLAIN_TIMEOUT)


def explain(instance_ids: Iterable[str]) -> UnaryCall[pb.ExplainResponse]:
    """Return the call of Explain."""
    ids, selectors = split(instance_ids)
    if selectors:
        raise InvalidRequest("cannot explain by selectors: resolve them with list_instances, and name ids")
    return UnaryCall("Explain", {"instance_ids": ids}, "explain the state", PLAIN_TIMEOUT)


def get_usage(instance_ids: Iterable[str], *, failing: bool, window: float) -> UnaryCall[pb.GetUsageResponse]:
    """Return the call of GetUsage; raise InvalidRequest for a window out of range."""
    if not 0.0 <= window <= LONGEST_WINDOW:
        raise InvalidRequest(
            f"cannot measure with a window of {window:g} s: the range is 0 to {LONGEST_WINDOW:g} s"
        )
    ids, selectors = split(instance_ids)
    seconds = int(window)
    request = {
        "instance_ids": ids,
        "selectors": selectors,
        "failing": failing,
        "window": {"seconds": seconds, "nanos": round((window - seconds) * 1e9)},
    }
    return UnaryCall("GetUsage", request, "measure the usage", PLAIN_TIMEOUT + window)


def update(
    changes: TargetRequests,
    *,
    reload_config: bool,
    validate_only: bool,
    with_dependencies: bool,
    reason: str = "",
    failing: bool = False,
) -> UnaryCall[pb.UpdateResponse]:
    """Return the call of Update."""
    requests = target_changes(changes, failing=failing)
    request = {
        "requests": requests,
        "reload_config": reload_config,
        "validate_only": validate_only,
        "with_dependencies": with_dependencies,
        "reason": reason,
    }
    what = "reload the site config" if reload_config and not requests else "update targets"
    return UnaryCall("Update", request, what, PLAIN_TIMEOUT, changes=not validate_only)


def restart(
    instance_ids: Sequence[str], *, all_up: bool, failing: bool = False, reason: str = ""
) -> UnaryCall[pb.RestartResponse]:
    """Return the call of Restart; raise InvalidRequest unless ids, `failing` or `all_up` are given."""
    ids, selectors = split(instance_ids)
    if bool(ids or selectors or failing) == all_up:
        raise InvalidRequest("cannot restart: name instances, or ask for all of them, not both")
    what = f"restart {', '.join((*ids, *selectors)) or ('what is failing' if failing else 'all')}"
    request = {
        "instance_ids": ids, "selectors": selectors, "failing": failing, "all": all_up, "reason": reason,
    }  # fmt: skip
    return UnaryCall("Restart", request, what, PLAIN_TIMEOUT, changes=True)


def signal(
    instance_id: str, signal: str | int, *, whole_tree: bool, reason: str = ""
) -> UnaryCall[pb.SignalResponse]:
    """Return the call of Signal."""
    request = {
        "instance_id": instance_id, "signal": str(signal), "whole_tree": whole_tree, "reason": reason,
    }  # fmt: skip
    return UnaryCall("Signal", request, f"signal {quoted(instance_id)}", PLAIN_TIMEOUT, changes=True)


def hold(instance_ids: Iterable[str], seconds: float | None, reason: str) -> UnaryCall[pb.HoldResponse]:
    """Return the call of Hold; raise InvalidRequest without ids, or for a number that is no duration."""
    ids = _ids(instance_ids)
    if not ids:
        raise InvalidRequest("cannot hold: name at least one instance")
    request: dict[str, Any] = {"instance_ids": ids, "reason": reason}
    if seconds is not None:
        if not 0 < seconds <= LONGEST_TIMEOUT * 2:  # the daemon knows the exact range
            raise InvalidRequest(f"cannot hold for {in_seconds(seconds)}: the range is 1 s to 366 days")
        request["duration"] = {"seconds": int(seconds), "nanos": round(seconds % 1 * 1e9) % 1_000_000_000}
    return UnaryCall("Hold", request, f"hold {', '.join(ids)}", PLAIN_TIMEOUT, changes=True)


def release(instance_ids: Iterable[str], *, all_held: bool) -> UnaryCall[pb.ReleaseResponse]:
    """Return the call of Release; raise InvalidRequest unless either ids or `all_held` are given."""
    ids = _ids(instance_ids)
    if bool(ids) == all_held:
        raise InvalidRequest("cannot release: name instances, or ask for all of them, not both")
    what = f"release {', '.join(ids) or 'all'}"
    return UnaryCall("Release", {"instance_ids": ids, "all": all_held}, what, PLAIN_TIMEOUT, changes=True)


def start_manager(
    changes: TargetRequests, *, reload_config: bool, reason: str = ""
) -> UnaryCall[pb.StartManagerResponse]:
    """Return the call of StartManager."""
    request = {"requests": target_changes(changes), "reload_config": reload_config, "reason": reason}
    return UnaryCall("StartManager", request, "start the manager", PLAIN_TIMEOUT, changes=True)


def stop_manager(*, reason: str = "") -> UnaryCall[pb.StopManagerResponse]:
    """Return the call of StopManager."""
    return UnaryCall("StopManager", {"reason": reason}, "stop the manager", STOP_TIMEOUT, changes=True)


def die(
    *, disown_dockers: bool, disown_processes: bool, expected_epoch: str, reason: str = ""
) -> UnaryCall[pb.DieResponse]:
    """Return the call of Die."""
    request = {
        "disown_dockers": disown_dockers,
        "disown_processes": disown_processes,
        "expected_epoch": expected_epoch,
        "reason": reason,
    }
    return UnaryCall("Die", request, "end the daemon", STOP_TIMEOUT, changes=True)


def upgrade(expected_epoch: str, *, validate_only: bool, reason: str = "") -> UnaryCall[pb.UpgradeResponse]:
    """Return the call of Upgrade."""
    request = {"expected_epoch": expected_epoch, "validate_only": validate_only, "reason": reason}
    return UnaryCall("Upgrade", request, "upgrade the daemon", UPGRADE_TIMEOUT, changes=not validate_only)


def target_changes(changes: TargetRequests, *, failing: bool = False) -> list[dict[str, Any]]:
    """Return the fields of the changes, in order; `failing` goes into each.

    Raises InvalidRequest for what is no change.
    """
    given: Any = changes  # a program may pass any object
    if isinstance(given, str | bytes):
        raise InvalidRequest(f'cannot set targets from {changes!r}: write {{"ID": "up"}} or [("ID", "up")]')
    requests: list[dict[str, Any]] = []
    for change in given.items() if isinstance(given, Mapping) else given:
        if not isinstance(change, tuple | list) or len(change) != 2 or not isinstance(change[0], str):
            raise InvalidRequest(f'cannot set a target from {change!r}: write ("ID", "up") or ("ID", "down")')
        name, target = change
        key = "selector" if isinstance(name, Selector) else "instance_id"
        requests.append({key: str(name), "target_state": to_target(target, name), "failing": failing})
    return requests


def to_target(target: object, instance_id: str) -> Target:
    """Return the number of a target, UP or DOWN, or of its word; raise InvalidRequest for others."""
    number = None if isinstance(target, bool) or not isinstance(target, int | str) else _TARGETS.get(target)
    if number is None:
        raise InvalidRequest(
            f"cannot set the target of {quoted(instance_id)} to {target!r}: the targets are 'up' and 'down'"
        )
    return number


@dataclass(frozen=True, slots=True)
class Listing:
    """Instances, and the token from which a watch resumes."""

    instances: tuple[pb.ManagedInstance, ...]
    revision: int
    resume_token: str


@dataclass(frozen=True, slots=True)
class EventListing:
    """Events, oldest first, and the token from which a watch of events resumes."""

    events: tuple[pb.Event, ...]
    resume_token: str


class InstancePages:
    """The calls of one listing of instances; MAX_IDS ids in each request."""

    PAGE_SIZE = 1000

    def __init__(self, instance_ids: Iterable[str], *, failing: bool = False) -> None:
        named, self._selectors = split(instance_ids)
        ids = sorted(set(named))
        self._parts = [ids[n : n + MAX_IDS] for n in range(0, len(ids), MAX_IDS)] or [[]]
        self._failing = failing
        self._limit = ReceiveLimit("pages of instances")
        self._instances: dict[str, pb.ManagedInstance] = {}
        self._first: pb.ListInstancesResponse | None = None
        self._page_token: str | None = ""

    def next_call(self) -> UnaryCall[pb.ListInstancesResponse] | None:
        """Return the next call; None after the last page."""
        if self._page_token is None:
            return None
        request = {
            "instance_ids": self._parts[0],
            "page_size": self.PAGE_SIZE,
            "page_token": self._page_token,
            "selectors": self._selectors,
            "failing": self._failing,
        }
        return UnaryCall("ListInstances", request, "list the instances", PLAIN_TIMEOUT)

    def received(self, page: pb.ListInstancesResponse) -> None:
        """Add a page; raise ServerBug if the listing exceeds the receive limit."""
        self._limit.count(page.ByteSize())
        self._first = self._first or page
        self._instances.update((instance.instance_id, instance) for instance in page.instances)
        self._page_token = page.next_page_token or None
        if self._page_token is None and len(self._parts) > 1:
            del self._parts[0]
            self._selectors = ()
            self._page_token = ""

    def result(self) -> Listing:
        """Return the listing, after the last page."""
        assert self._first is not None
        return Listing(tuple(self._instances.values()), self._first.revision, self._first.resume_token)


_NOTHING: Mapping[str, Any] = {}


class EventPages:
    """The calls of one listing of events; `wanted` has the fields of `event_filter`."""

    PAGE_SIZE = 1000

    def __init__(
        self, instance_ids: Iterable[str], newest: int, wanted: Mapping[str, Any] = _NOTHING
    ) -> None:
        if newest < 0:
            raise InvalidRequest(
                f"cannot list the newest {newest} events: the number must be 0 (all) or more"
            )
        self._ids, self._selectors = split(instance_ids)
        # With more ids than one request accepts, the daemon sends all events, and `received` filters them.
        self._wanted = frozenset(self._ids) if len(self._ids) > MAX_IDS else None
        check_combination(self._wanted, self._selectors)
        self._newest = newest
        self._filter = wanted
        self._limit = ReceiveLimit("pages of events")
        self._events: list[pb.Event] = []
        self._resume_token = ""
        self._page_token: str | None = ""

    def next_call(self) -> UnaryCall[pb.ListEventsResponse] | None:
        """Return the next call; None after the last page."""
        if self._page_token is None:
            return None
        request = {
            "instance_ids": self._ids if self._wanted is None else (),
            "page_size": self.PAGE_SIZE,
            "page_token": self._page_token,
            "newest": self._newest if self._wanted is None else 0,
            **self._filter,
            "selectors": self._selectors,
        }
        return UnaryCall("ListEvents", request, "list the events", PLAIN_TIMEOUT)

    def received(self, page: pb.ListEventsResponse) -> None:
        """Add a page; raise ServerBug if the listing exceeds the receive limit."""
        self._limit.count(page.ByteSize())
        self._events += [e for e in page.events if self._wanted is None or e.instance_id in self._wanted]
        self._resume_token = page.resume_token
        self._page_token = page.next_page_token or None

    def result(self) -> EventListing:
        """Return the listing, after the last page."""
        return EventListing(tuple(self._events[-self._newest :]), self._resume_token)  # 0: all


def check_combination(wanted: frozenset[str] | None, selectors: Sequence[str]) -> None:
    """Raise InvalidRequest for selectors with more ids than one request accepts, which the client filters."""
    if wanted is not None and selectors:
        raise InvalidRequest(f"cannot combine selectors with more than {MAX_IDS} instance ids")


def _ids(instance_ids: Iterable[str]) -> tuple[str, ...]:
    """Return plain ids; raise InvalidRequest for a single text, or for a Selector."""
    ids, selectors = split(instance_ids)
    if selectors:
        raise InvalidRequest(
            f"cannot select by {quoted(selectors[0])} here: give ids, such as those of a list"
        )
    return ids


def request_message(call: UnaryCall[Any]) -> Message:
    """Return the request of a call as a message of protobuf."""
    from hostmanager.v1 import host_manager_pb2 as pb

    request: Message = getattr(pb, f"{call.method}Request")(**call.request)
    return request
