"""Limits on endless answers of a daemon."""

from __future__ import annotations

from typing import Any

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import HostManagerError, ServerBug, receive_limits
from hostmanager_client.calls import EventPages, InstancePages
from hostmanager_client.log_stream import LogQuery, LogStream
from hostmanager_client.state import StatusFold

from tests.client.fake_daemon import FakeDaemon


@pytest.mark.parametrize(
    ("pages", "page"),
    [
        (InstancePages(()), pb.ListInstancesResponse(next_page_token="more")),
        (EventPages((), 0), pb.ListEventsResponse(next_page_token="more")),
    ],
)
def test_endless_pages_are_an_error(pages: Any, page: Any) -> None:
    def receive_all() -> None:
        while pages.next_call() is not None:
            pages.received(page)

    with pytest.raises(ServerBug, match="more than any host has"):
        receive_all()


def test_too_many_bytes_in_sum_are_an_error() -> None:
    limit = receive_limits.ReceiveLimit("pages", most_bytes=100)
    limit.count(100)
    with pytest.raises(ServerBug, match="cannot receive all pages"):
        limit.count(1)


def test_an_endless_snapshot_is_an_error() -> None:
    fold = StatusFold()
    fold.receive(pb.WatchStatusResponse(snapshot=pb.StatusSnapshot(first=True)))
    message = pb.WatchStatusResponse(snapshot=pb.StatusSnapshot())
    for _ in range(receive_limits.MOST_PAGES - 1):
        fold.receive(message)
    with pytest.raises(ServerBug, match="pieces of a snapshot"):
        fold.receive(message)


def test_more_instances_than_any_host_has_are_an_error() -> None:
    fold = StatusFold()
    fold.receive(pb.WatchStatusResponse(snapshot=pb.StatusSnapshot(first=True, last=True)))
    delta = pb.WatchStatusResponse(delta=pb.StatusDelta())
    for number in range(receive_limits.MOST_INSTANCES + 1):
        delta.delta.instances.add(instance_id=str(number))
    with pytest.raises(ServerBug, match="claims more than"):
        fold.receive(delta)


def test_more_lines_than_requested_are_an_error() -> None:
    stream = LogStream("data1", LogQuery(2), silence=None)
    stream.receive(pb.TailLogsResponse(lines=[pb.LogLine(text="a", continues=True), pb.LogLine(text="b")]))
    stream.receive(pb.TailLogsResponse(lines=[pb.LogLine(text="c")]))
    with pytest.raises(ServerBug, match="more than the requested 2 lines"):
        stream.receive(pb.TailLogsResponse(lines=[pb.LogLine(text="d")]))


def test_the_call_for_an_endless_listing_ends(
    daemon: FakeDaemon, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = receive_limits.ReceiveLimit.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "most_pieces", 50)

    def endless(request: Any, context: Any) -> Any:
        return pb.ListInstancesResponse(next_page_token="more")

    daemon.ListInstances = endless  # type: ignore[method-assign]
    daemon.stop()
    daemon.start()
    with pytest.raises(HostManagerError, match="more than any host has"):
        client.list_instances()
