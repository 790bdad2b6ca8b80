"""Streams of events and logs, and the end of every kind of stream."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.rpc.server import Limits

from tests.rpc.harness import down, refused, run, server_harness, until

CODE = grpc.StatusCode
Snapshot = pb.StatusSnapshot


@pytest.mark.parametrize("token", ["", "{epoch}.{last}"], ids=["from now", "resumed"])
async def test_a_watch_of_events_is_confirmed_at_once(tmp_path: Path, token: str) -> None:
    async with server_harness(tmp_path) as h:
        token_of_now = token.format(epoch=h.epoch, last=h.store.last_sequence)
        request = pb.WatchEventsRequest(resume_token=token_of_now, heartbeat_interval=Duration(seconds=3600))
        async with asyncio.timeout(20):
            opening = await anext(aiter(h.stub().WatchEvents(request)))
        assert not opening.events
        assert opening.resume_token == f"{h.epoch}.{h.store.last_sequence}"


async def test_every_stream_ends_with_unavailable_when_the_daemon_does(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        streams: list[grpc.aio.UnaryStreamCall[Any, Any]] = [
            stub.WatchStatus(pb.WatchStatusRequest()),
            stub.WatchEvents(pb.WatchEventsRequest(resume_token=f"{h.epoch}.0")),
            stub.TailLogs(pb.TailLogsRequest(instance_id="a", follow=True)),
        ]
        for stream in streams:
            await anext(aiter(stream))
        h.hub.close()
        for stream in streams:
            error = await refused(_drain(stream))
            assert (error.code, error.reason) == (CODE.UNAVAILABLE, "SHUTTING_DOWN")
        assert h.watchers == 0


async def test_a_client_cannot_reconnect_to_a_stopping_server(tmp_path: Path) -> None:
    # A gRPC client that reconnects then may wait for ever, without an error.
    async with server_harness(tmp_path) as h:
        stream = h.stub().WatchStatus(pb.WatchStatusRequest())
        await anext(aiter(stream))
        assert "s" in os.listdir(tmp_path)
        stopping = asyncio.create_task(h.server.stop())
        await refused(_drain(stream))
        assert "s" not in os.listdir(tmp_path)
        await stopping


async def test_a_second_stop_does_not_remove_the_socket_of_the_next_daemon(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        await h.server.stop()
        (tmp_path / "s").touch()
        await h.server.stop()
        assert (tmp_path / "s").exists()


async def test_a_socket_that_cannot_be_removed_does_not_keep_the_server_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, **_: Any) -> None:
        raise OSError(errno.EROFS, "read-only", str(path))

    async with server_harness(tmp_path) as h:
        stream = h.stub().WatchStatus(pb.WatchStatusRequest())
        await anext(aiter(stream))
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", read_only)
            await h.server.stop()
        error = await refused(_drain(stream))
        assert error.reason == "SHUTTING_DOWN"


async def _drain(stream: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
    async for _ in stream:
        pass


def test_a_limit_is_named_and_a_closed_stream_makes_room(tmp_path: Path) -> None:
    async def play(limits: Limits, name: str) -> None:
        async with server_harness(tmp_path, limits=limits) as h:
            stub = h.stub()
            streams = [stub.WatchStatus(pb.WatchStatusRequest()) for _ in range(2)]
            for stream in streams:
                await anext(aiter(stream))
            error = await refused(anext(aiter(stub.WatchEvents(pb.WatchEventsRequest(resume_token="e0.0")))))
            assert (error.code, error.reason) == (CODE.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
            assert error.metadata == {"limit": name, "value": "2"}
            assert name in error.message
            streams[0].cancel()
            await until(lambda: h.watchers == 1)
            await anext(aiter(stub.TailLogs(pb.TailLogsRequest(instance_id="a", follow=True))))

    run(play(Limits(watchers=2), "max-watchers"))
    run(play(Limits(watchers_per_client=2), "max-watchers-per-client"))


async def test_streams_of_vanished_clients_are_freed(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        for _ in range(5):
            stub = h.stub()
            streams: list[grpc.aio.UnaryStreamCall[Any, Any]] = [
                stub.WatchStatus(pb.WatchStatusRequest()),
                stub.WatchEvents(pb.WatchEventsRequest(resume_token="e0.0")),
                stub.TailLogs(pb.TailLogsRequest(instance_id="a", follow=True)),
            ]
            for stream in streams:
                await anext(aiter(stream))
            assert h.watchers == 3
            for stream in streams:
                stream.cancel()  # grpcio before 1.82 does not do so on close
            await h.channels[-1].close()
            await until(lambda: h.watchers == 0 and not h.hub._clients)


async def test_a_tail_has_no_more_than_the_requested_lines(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        for lines, expected in ((2, ["a 4", "a 5"]), (0, []), (None, [f"a {n}" for n in range(1, 6)])):
            request = pb.TailLogsRequest(instance_id="a", lines=lines)
            got = [line.text async for message in stub.TailLogs(request) for line in message.lines]
            assert got == expected


async def test_the_log_of_the_daemon_is_read_from_its_file(tmp_path: Path) -> None:
    async with server_harness(tmp_path, started=False) as h:
        error = await refused(_drain(h.stub().TailLogs(pb.TailLogsRequest(daemon=True, instance_id="a"))))
        assert error.violations.keys() == {"instance_id"}
        error = await refused(_drain(h.stub().TailLogs(pb.TailLogsRequest(daemon=True))))
        assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "LOGGED_BY_SYSTEMD")


async def test_events_are_listed_in_pages_and_followed_from_there(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        events: list[pb.Event] = []
        token = ""
        while True:
            page = await stub.ListEvents(pb.ListEventsRequest(page_size=2, page_token=token))
            events += page.events
            token = page.next_page_token
            if not token:
                break
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))
        newest = await stub.ListEvents(pb.ListEventsRequest(newest=1))
        assert [e.sequence for e in newest.events] == [len(events)]
        of_a = await stub.ListEvents(pb.ListEventsRequest(instance_ids=["a"]))
        assert {e.instance_id for e in of_a.events} == {"a"}
        await stub.Update(pb.UpdateRequest(requests=down("a")))
        stream = stub.WatchEvents(pb.WatchEventsRequest(resume_token=page.resume_token))
        followed: list[pb.Event] = []
        while not any(e.kind == pb.EVENT_KIND_DOWN for e in followed):
            message = await anext(aiter(stream))
            assert not message.HasField("gap")
            followed += message.events
        assert [e.sequence for e in followed] == list(range(len(events) + 1, len(events) + 1 + len(followed)))
        gap = await anext(aiter(stub.WatchEvents(pb.WatchEventsRequest(resume_token="earlier.7"))))
        assert gap.HasField("gap")
        assert gap.gap.missed == 0


async def test_a_tail_of_a_quiet_instance_is_confirmed_at_once(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stream = h.stub().TailLogs(pb.TailLogsRequest(instance_id="a", lines=0, follow=True))
        assert await stream.read() == pb.TailLogsResponse()
        stream.cancel()
