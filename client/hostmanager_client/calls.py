"""Unary calls: requests, deadlines and the words for a failure, and listings in pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

from google.protobuf.message import Message
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.values import dataclass

from hostmanager_client.errors import InvalidRequest, quoted
from hostmanager_client.receive_limits import ReceiveLimit

Response = TypeVar("Response", bound=Message)

MAX_IDS = 1000  # ids that the daemon accepts in one request
PLAIN_TIMEOUT = 10.0  # s
# A full stop takes as long as the slowest instance: the sum of its stop graces.
STOP_TIMEOUT = 120.0  # s
UPGRADE_TIMEOUT = 60.0  # s; the daemon first checks that the new code starts

Target: TypeAlias = "pb.TargetState.ValueType"
UP = pb.TARGET_STATE_UP
DOWN = pb.TARGET_STATE_DOWN
# One id (or "all") and its target.
Change = tuple[str, Target]
TargetRequests = Mapping[str, Target] | Iterable[Change]


@dataclass(frozen=True, slots=True)
class UnaryCall(Generic[Response]):
    """One unary call; `what` completes the sentence "cannot ..." of its errors."""

    method: str
    request: Message
    what: str
    timeout: float
    response: type[Response]
    changes: bool = False  # changes something on the host; other calls may be repeated


def get_status() -> UnaryCall[pb.GetStatusResponse]:
    """Return the call of GetStatus."""
    return UnaryCall(
        "GetStatus", pb.GetStatusRequest(), "get the status", PLAIN_TIMEOUT, pb.GetStatusResponse
    )


def get_instance(instance_id: str) -> UnaryCall[pb.GetInstanceResponse]:
    """Return the call of GetInstance."""
    request = pb.GetInstanceRequest(instance_id=instance_id)
    return UnaryCall(
        "GetInstance", request, f"get {quoted(instance_id)}", PLAIN_TIMEOUT, pb.GetInstanceResponse
    )


def update(
    changes: TargetRequests, *, reload_config: bool, validate_only: bool, with_dependencies: bool
) -> UnaryCall[pb.UpdateResponse]:
    """Return the call of Update."""
    request = pb.UpdateRequest(
        requests=target_changes(changes),
        reload_config=reload_config,
        validate_only=validate_only,
        with_dependencies=with_dependencies,
    )
    what = "reload the site config" if reload_config and not request.requests else "update targets"
    return UnaryCall("Update", request, what, PLAIN_TIMEOUT, pb.UpdateResponse, changes=not validate_only)


def restart(instance_ids: Sequence[str], *, all_up: bool) -> UnaryCall[pb.RestartResponse]:
    """Return the call of Restart; raise InvalidRequest unless either ids or `all_up` are given."""
    ids = _ids(instance_ids)
    if bool(ids) == all_up:
        raise InvalidRequest("cannot restart: name instances, or ask for all of them, not both")
    request = pb.RestartRequest(instance_ids=ids, all=all_up)
    what = f"restart {', '.join(ids) or 'all'}"
    return UnaryCall("Restart", request, what, PLAIN_TIMEOUT, pb.RestartResponse, changes=True)


def start_manager(changes: TargetRequests, *, reload_config: bool) -> UnaryCall[pb.StartManagerResponse]:
    """Return the call of StartManager."""
    request = pb.StartManagerRequest(requests=target_changes(changes), reload_config=reload_config)
    return UnaryCall(
        "StartManager", request, "start the manager", PLAIN_TIMEOUT, pb.StartManagerResponse, changes=True
    )


def stop_manager() -> UnaryCall[pb.StopManagerResponse]:
    """Return the call of StopManager."""
    request = pb.StopManagerRequest()
    return UnaryCall(
        "StopManager", request, "stop the manager", STOP_TIMEOUT, pb.StopManagerResponse, changes=True
    )


def die(*, disown_dockers: bool, disown_processes: bool, expected_epoch: str) -> UnaryCall[pb.DieResponse]:
    """Return the call of Die."""
    request = pb.DieRequest(
        disown_dockers=disown_dockers, disown_processes=disown_processes, expected_epoch=expected_epoch
    )
    return UnaryCall("Die", request, "end the daemon", STOP_TIMEOUT, pb.DieResponse, changes=True)


def upgrade(expected_epoch: str, *, validate_only: bool) -> UnaryCall[pb.UpgradeResponse]:
    """Return the call of Upgrade."""
    request = pb.UpgradeRequest(expected_epoch=expected_epoch, validate_only=validate_only)
    return UnaryCall(
        "Upgrade",
        request,
        "upgrade the daemon",
        UPGRADE_TIMEOUT,
        pb.UpgradeResponse,
        changes=not validate_only,
    )


def target_changes(changes: TargetRequests) -> list[pb.TargetChange]:
    """Return the changes as messages, in order."""
    pairs = changes.items() if isinstance(changes, Mapping) else changes
    return [pb.TargetChange(instance_id=instance_id, target_state=target) for instance_id, target in pairs]


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

    def __init__(self, instance_ids: Iterable[str]) -> None:
        ids = sorted(set(_ids(instance_ids)))
        self._parts = [ids[n : n + MAX_IDS] for n in range(0, len(ids), MAX_IDS)] or [[]]
        self._limit = ReceiveLimit("pages of instances")
        self._instances: list[pb.ManagedInstance] = []
        self._first: pb.ListInstancesResponse | None = None
        self._page_token: str | None = ""

    def next_call(self) -> UnaryCall[pb.ListInstancesResponse] | None:
        """Return the next call; None after the last page."""
        if self._page_token is None:
            return None
        request = pb.ListInstancesRequest(
            instance_ids=self._parts[0], page_size=self.PAGE_SIZE, page_token=self._page_token
        )
        return UnaryCall(
            "ListInstances", request, "list the instances", PLAIN_TIMEOUT, pb.ListInstancesResponse
        )

    def received(self, page: pb.ListInstancesResponse) -> None:
        """Add a page; raise ServerBug if the listing exceeds the receive limit."""
        self._limit.count(page.ByteSize())
        self._first = self._first or page
        self._instances += page.instances
        self._page_token = page.next_page_token or None
        if self._page_token is None and len(self._parts) > 1:
            del self._parts[0]
            self._page_token = ""

    def result(self) -> Listing:
        """Return the listing, after the last page."""
        assert self._first is not None
        return Listing(tuple(self._instances), self._first.revision, self._first.resume_token)


class EventPages:
    """The calls of one listing of events."""

    PAGE_SIZE = 1000

    def __init__(self, instance_ids: Iterable[str], newest: int) -> None:
        if newest < 0:
            raise InvalidRequest(
                f"cannot list the newest {newest} events: the number must be 0 (all) or more"
            )
        self._ids = _ids(instance_ids)
        # With more ids than one request accepts, the daemon sends all events, and `received` filters them.
        self._wanted = frozenset(self._ids) if len(self._ids) > MAX_IDS else None
        self._newest = newest
        self._limit = ReceiveLimit("pages of events")
        self._events: list[pb.Event] = []
        self._resume_token = ""
        self._page_token: str | None = ""

    def next_call(self) -> UnaryCall[pb.ListEventsResponse] | None:
        """Return the next call; None after the last page."""
        if self._page_token is None:
            return None
        request = pb.ListEventsRequest(
            instance_ids=self._ids if self._wanted is None else (),
            page_size=self.PAGE_SIZE,
            page_token=self._page_token,
            newest=self._newest if self._wanted is None else 0,
        )
        return UnaryCall("ListEvents", request, "list the events", PLAIN_TIMEOUT, pb.ListEventsResponse)

    def received(self, page: pb.ListEventsResponse) -> None:
        """Add a page; raise ServerBug if the listing exceeds the receive limit."""
        self._limit.count(page.ByteSize())
        self._events += [e for e in page.events if self._wanted is None or e.instance_id in self._wanted]
        self._resume_token = page.resume_token
        self._page_token = page.next_page_token or None

    def result(self) -> EventListing:
        """Return the listing, after the last page."""
        return EventListing(tuple(self._events[-self._newest :]), self._resume_token)  # 0: all


def _ids(instance_ids: Iterable[str]) -> tuple[str, ...]:
    if isinstance(instance_ids, str):  # otherwise each letter would be an id
        raise InvalidRequest(
            f"cannot use {quoted(instance_ids)} as a list of instance ids: write [{quoted(instance_ids)}]"
        )
    return tuple(instance_ids)
