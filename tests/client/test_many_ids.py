"""Requests with more ids than the daemon accepts."""

from __future__ import annotations

from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.calls import EventPages, InstancePages, request_message
from hostmanager_client.streams import EventStream, StatusStream

IDS = [f"i{n:04}" for n in range(2500)]


def test_a_listing_is_split_into_requests() -> None:
    pages = InstancePages(reversed(IDS))
    asked: list[tuple[int, str]] = []
    while (call := pages.next_call()) is not None:
        request: Any = request_message(call)
        assert isinstance(request, pb.ListInstancesRequest)
        ids = request.instance_ids
        asked.append((len(ids), request.page_token))
        half = len(ids) // 2
        page, token = (ids[half:], "") if request.page_token else (ids[:half], f"after {ids[half]}")
        instances = [pb.ManagedInstance(instance_id=i) for i in page]
        pages.received(
            pb.ListInstancesResponse(
                instances=instances, next_page_token=token, resume_token=f"t{len(asked)}"
            )
        )
    assert [count for count, _ in asked] == [1000, 1000, 1000, 1000, 500, 500]
    assert [i.instance_id for i in pages.result().instances] == IDS
    assert pages.result().resume_token == "t1"


def test_events_are_filtered_from_all_events() -> None:
    pages = EventPages(IDS, newest=2)
    call = pages.next_call()
    assert call is not None
    assert request_message(call) == pb.ListEventsRequest(page_size=1000)
    events = [
        pb.Event(sequence=n, instance_id=i) for n, i in enumerate(["i0001", "x", "i0002", "i0003", "y"])
    ]
    pages.received(pb.ListEventsResponse(events=events, resume_token="t"))
    assert [e.instance_id for e in pages.result().events] == ["i0002", "i0003"]


def test_a_watch_of_events_filters_its_ids() -> None:
    stream = EventStream(IDS)
    assert not stream.request().instance_ids
    message = pb.WatchEventsResponse(events=[pb.Event(instance_id="x"), pb.Event(instance_id="i0007")])
    assert [e.instance_id for e in stream.receive(message) if isinstance(e, pb.Event)] == ["i0007"]


def test_a_watch_of_the_status_filters_its_ids() -> None:
    stream = StatusStream(IDS)
    assert not stream.request().instance_ids
    both = [pb.ManagedInstance(instance_id=i, revision=1) for i in ("i0001", "x")]
    snapshot = pb.StatusSnapshot(instances=both, first=True, last=True)
    first = stream.receive(pb.WatchStatusResponse(revision=1, snapshot=snapshot, resume_token="e.1"))
    assert list(first[0].state.instances) == ["i0001"]
    later = [pb.ManagedInstance(instance_id=i, revision=2) for i in ("i0002", "y")]
    delta = pb.StatusDelta(instances=later, removed_instance_ids=["x", "i0001"])
    second = stream.receive(pb.WatchStatusResponse(revision=2, delta=delta, resume_token="e.2"))
    assert list(second[0].state.instances) == ["i0002"]


def test_a_thousand_ids_fit_into_one_request() -> None:
    assert len(StatusStream(IDS[:1000]).request().instance_ids) == 1000
