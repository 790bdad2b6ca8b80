"""A daemon that never ends an answer is given up, and the error says so."""

from __future__ import annotations

from typing import Any

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import HostManagerError, ServerBug, limits
from hostmanager_client.calls import EventPages, InstancePages
from hostmanager_client.state import StatusFold
from hostmanager_client.streams import LogStream

from tests.client.fake_daemon import FakeDaemon


@pytest.mark.parametrize(
    ("pages", "page"),
    [
        (InstancePages(()), pb.ListInstancesResponse(next_page_token="more")),
        (EventPages((), 0), pb.ListEventsResponse(next_page_token="more")),
    ],
)
def test_pages_without_end_are_given_up(pages: Any, page: Any) -> None:
    def take_all() -> None:
        while pages.next_call() is not None:
            pages.received(page)

    with pytest.raises(ServerBug, match="more than any host has"):
        take_all()


def test_what_is_too_large_in_sum_is_given_up() -> None:
    limit = limits.ReceiveLimit("pages", most_bytes=100)
    limit.count(100)
    with pytest.raises(ServerBug, match="cannot take all pages"):
        limit.count(1)


def test_a_snapshot_without_end_is_given_up() -> None:
    fold = StatusFold()
    fold.receive(pb.WatchStatusResponse(snapshot=pb.StatusSnapshot(first=True)))
    message = pb.WatchStatusResponse(snapshot=pb.StatusSnapshot())
    for _ in range(limits.MOST_PAGES - 1):
        fold.receive(message)
    with pytest.raises(ServerBug, match="pieces of a snapshot"):
        fold.receive(message)


def test_more_instances_than_any_host_has_are_given_up() -> None:
    fold = StatusFold()
    fold.receive(pb.WatchStatusResponse(snapshot=pb.StatusSnapshot(first=True, last=True)))
    delta = pb.WatchStatusResponse(delta=pb.StatusDelta())
    for number in range(limits.MOST_INSTANCES + 1):
        delta.delta.instances.add(instance_id=str(number))
    with pytest.raises(ServerBug, match="claims more than"):
        fold.receive(delta)


def test_more_lines_than_were_asked_for_are_given_up() -> None:
    stream = LogStream("data1", 2, follow=False, silence=None)
    stream.receive(pb.TailLogsResponse(lines=[pb.LogLine(text="a", continues=True), pb.LogLine(text="b")]))
    stream.receive(pb.TailLogsResponse(lines=[pb.LogLine(text="c")]))
    with pytest.raises(ServerBug, match="more than the 2 lines"):
        stream.receive(pb.TailLogsResponse(lines=[pb.LogLine(text="d")]))


def test_the_command_for_a_listing_without_end_ends(daemon: FakeDaemon, client: Any) -> None:
    def endless(request: Any, context: Any) -> Any:
        return pb.ListInstancesResponse(next_page_token="more")

    daemon.ListInstances = endless  # type: ignore[method-assign]
    daemon.stop()
    daemon.start()
    with pytest.raises(HostManagerError, match="more than any host has"):
        client.list_instances()
