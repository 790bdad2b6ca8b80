"""ListEvents and WatchEvents over the lives of several daemons, with selections."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.state.event_archive import EventArchive
from hostmanager_server.state.event_writer import EventWriter
from hostmanager_server.state.store import Store

from tests.rpc.harness import refused, server_harness

CODE = grpc.StatusCode
PAST = 1_700_000_000.0


def earlier_daemon(folder: Path, count: int = 40, epoch: str = "before") -> None:
    """Leave the events of a daemon that ended in order: every second of `a`, every tenth a warning."""
    archive = EventArchive(folder / "events", epoch)
    store = Store(epoch, ManagerStatus(ManagerState.STOPPED, "host", "site.yaml"), last_sequence=archive.last)
    writer = EventWriter(store, archive)
    writer.start()
    store.publish(
        entries=[
            LogEntry(
                EntryKind.EXIT,
                "Exited",
                f"event {number}",
                Instant(1.0, PAST + number),
                "a" if number % 2 else "b",
                Severity.INFO if number % 10 else Severity.WARNING,
            )
            for number in range(1, count + 1)
        ]
    )
    writer.close()


async def pages(stub: Any, **selection: Any) -> list[pb.Event]:
    """Return all selected events, three a page."""
    events: list[pb.Event] = []
    token = ""
    while True:
        page = await stub.ListEvents(pb.ListEventsRequest(page_size=3, page_token=token, **selection))
        assert len(page.events) == 3 or not page.next_page_token
        events += page.events
        token = page.next_page_token
        if not token:
            return events


def at(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(PAST + seconds))


async def test_events_of_earlier_daemons_are_listed_in_order(tmp_path: Path) -> None:
    earlier_daemon(tmp_path)
    async with server_harness(tmp_path) as h:
        events = await pages(h.stub())
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.message for event in events[:40]] == [f"event {number}" for number in range(1, 41)]
        assert {event.revision for event in events[:40]} == {0}
        assert events[40:]
        assert all(event.revision for event in events[40:])
        newest = await h.stub().ListEvents(pb.ListEventsRequest(newest=len(events) - 38))
        assert [event.message for event in newest.events[:2]] == ["event 39", "event 40"]


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        ({"instance_ids": ["a"], "until": at(8)}, [1, 3, 5, 7]),
        ({"min_severity": pb.SEVERITY_WARNING, "until": at(1000)}, [10, 20, 30, 40]),
        ({"since": at(36), "until": at(39)}, [36, 37, 38]),
        ({"reasons": ["Exited"], "newest": 5, "until": at(1000)}, [36, 37, 38, 39, 40]),
        ({"reasons": ["Up", "Down"], "until": at(1000)}, []),
    ],
    ids=["id", "severity", "time", "newest", "reason"],
)
async def test_a_selection_is_listed_in_pages(
    tmp_path: Path, selection: dict[str, Any], numbers: list[int]
) -> None:
    earlier_daemon(tmp_path)
    async with server_harness(tmp_path) as h:
        events = await pages(h.stub(), **selection)
        assert [event.message for event in events] == [f"event {number}" for number in numbers]


async def test_a_stream_continues_from_an_earlier_daemon_without_a_gap(tmp_path: Path) -> None:
    earlier_daemon(tmp_path)
    async with server_harness(tmp_path) as h:
        request = pb.WatchEventsRequest(resume_token="before.38", reasons=["Exited", "Up"])
        found: list[pb.Event] = []
        async for message in h.stub().WatchEvents(request):
            assert not message.HasField("gap")
            found += message.events
            if len(found) >= 5:
                break
        assert [event.message for event in found[:2]] == ["event 39", "event 40"]
        assert {event.reason for event in found[2:]} == {"Up"}


async def test_a_stream_says_that_a_daemon_died(tmp_path: Path) -> None:
    earlier_daemon(tmp_path)
    (file,) = (tmp_path / "events").iterdir()
    file.write_bytes(b"".join(line for line in file.open("rb") if b"closed" not in line))
    async with server_harness(tmp_path) as h:
        stream = h.stub().WatchEvents(pb.WatchEventsRequest(resume_token="before.40"))
        opening = await anext(aiter(stream))
        assert (opening.gap.missed, bool(opening.gap.message)) == (0, True)
        assert opening.resume_token == f"{h.epoch}.40"


async def test_a_stream_begins_at_a_time(tmp_path: Path) -> None:
    earlier_daemon(tmp_path)
    async with server_harness(tmp_path) as h:
        request = pb.WatchEventsRequest(since=Timestamp(seconds=int(time.time()) - 3600))
        async for message in h.stub().WatchEvents(request):
            if message.events:
                assert message.events[0].sequence == 41
                break
        request = pb.WatchEventsRequest(since=at(30), min_severity=pb.SEVERITY_WARNING)
        async for message in h.stub().WatchEvents(request):
            if message.events:
                assert [event.message for event in message.events[:2]] == ["event 30", "event 40"]
                break


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        ({"reasons": ["Exited", "not a word"]}, "reasons[1]"),
        ({"reasons": ["x" * 81]}, "reasons[0]"),
        ({"reasons": ["Up"] * 101}, "reasons"),
        ({"min_severity": 17}, "min_severity"),
    ],
)
async def test_a_malformed_selection_is_refused(
    tmp_path: Path, selection: dict[str, Any], field: str
) -> None:
    async with server_harness(tmp_path, started=False) as h:
        error = await refused(h.stub().ListEvents(pb.ListEventsRequest(**selection)))
        assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert error.violations.keys() == {field}
        stream = h.stub().WatchEvents(pb.WatchEventsRequest(**selection))
        error = await refused(anext(aiter(stream)))
        assert error.violations.keys() == {field}
