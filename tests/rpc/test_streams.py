"""The streams: snapshots, changes, resuming, limits, and what is left of a stream that is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.spec import HostSpec, ProcessSpec
from hostmanager_server.rpc.server import Limits

from tests.in_memory import ReadConfig
from tests.rpc.conftest import View, down, refused, run, server_harness, spec, until, up

CODE = grpc.StatusCode
Snapshot = pb.StatusSnapshot


def test_a_watch_begins_with_a_snapshot_and_follows(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub, view = h.stub(), View()
            stream = stub.WatchStatus(pb.WatchStatusRequest())
            await view.read(stream, lambda: len(view.instances) == 3)
            assert view.reasons == [Snapshot.REASON_INITIAL]
            await stub.Update(pb.UpdateRequest(requests=down("a")))
            await view.read(stream, lambda: view.instances["a"].next_action == pb.NEXT_ACTION_DOWN)
            h.config = ReadConfig(HostSpec("host", (spec("b"), spec("d"))))
            await stub.Update(pb.UpdateRequest(reload_config=True))
            await view.read(stream, lambda: view.instances.keys() == {"b", "d"})
            h.call_soon(lambda: h.host.crash("b", ExitStatus(3)))
            await view.read(stream, lambda: view.instances["b"].last_exit.code == 3)
            assert view.instances["b"].stability < 1.0
            await view.read(stream, lambda: view.instances["b"].next_action == pb.NEXT_ACTION_UP)
            await stub.StopManager(pb.StopManagerRequest())
            await view.read(
                stream, lambda: view.manager is not None and view.manager.state == pb.MANAGER_STATE_STOPPED
            )
            listed = await stub.ListInstances(pb.ListInstancesRequest())
            assert view.instances.keys() == {i.instance_id for i in listed.instances}
            assert {i: m.revision for i, m in view.instances.items()} == {
                i.instance_id: i.revision for i in listed.instances
            }

    run(play())


def test_a_resumed_watch_gets_what_it_missed_and_no_more(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub, view = h.stub(), View()
            stream = stub.WatchStatus(pb.WatchStatusRequest())
            await view.read(stream, lambda: len(view.instances) == 3)
            stream.cancel()
            h.config = ReadConfig(HostSpec("host", (spec("a"), spec("b"))))
            await stub.Update(pb.UpdateRequest(reload_config=True, requests=down("a")))
            await until(lambda: len(h.store.snapshot().instances) == 2 and h.host.run_of("a") is None)
            first = await anext(aiter(stub.WatchStatus(pb.WatchStatusRequest(resume_token=view.token))))
            assert {i.instance_id for i in first.delta.instances} == {"a"}
            assert list(first.delta.removed_instance_ids) == ["c"]

    run(play())


def test_a_watch_that_cannot_resume_says_why_and_starts_over(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path, removals_kept=0) as h:
            stub = h.stub()
            token = (await stub.GetStatus(pb.GetStatusRequest())).resume_token
            h.config = ReadConfig(HostSpec("host", (spec("a"),)))
            await stub.Update(pb.UpdateRequest(reload_config=True))
            await until(lambda: len(h.store.snapshot().instances) == 1)
            for given, reason in (
                (token, Snapshot.REASON_HISTORY_COMPACTED),
                ("earlier.3", Snapshot.REASON_EPOCH_CHANGED),
                ("", Snapshot.REASON_INITIAL),
            ):
                first = await anext(aiter(stub.WatchStatus(pb.WatchStatusRequest(resume_token=given))))
                assert first.snapshot.reason == reason
                assert [i.instance_id for i in first.snapshot.instances] == ["a"]

    run(play())


def test_a_reader_that_missed_forgotten_removals_is_resynced_in_its_stream(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path, removals_kept=0) as h:
            stub, view = h.stub(), View()
            stream = stub.WatchStatus(pb.WatchStatusRequest())
            await view.read(stream, lambda: len(view.instances) == 3)
            h.config = ReadConfig(HostSpec("host", (spec("a"),)))
            await stub.Update(pb.UpdateRequest(reload_config=True))
            await view.read(stream, lambda: view.instances.keys() == {"a"})
            assert view.reasons[0] == Snapshot.REASON_INITIAL
            assert set(view.reasons[1:]) == {Snapshot.REASON_SLOW_CONSUMER}

    run(play())


def test_a_filtered_watch_is_told_only_of_its_instances(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub, view = h.stub(), View()
            stream = stub.WatchStatus(pb.WatchStatusRequest(instance_ids=["b", "later"]))
            await view.read(stream, lambda: view.instances.keys() == {"b"})
            h.config = ReadConfig(HostSpec("host", (spec("a"), spec("b"), spec("later"))))
            await stub.Update(pb.UpdateRequest(reload_config=True, requests=[*down("a"), *down("b")]))
            await view.read(
                stream,
                lambda: (
                    "later" in view.instances
                    and view.instances["later"].next_action == pb.NEXT_ACTION_UP
                    and view.instances["b"].next_action == pb.NEXT_ACTION_DOWN
                ),
            )
            assert view.instances.keys() == {"b", "later"}

    run(play())


def test_a_quiet_watch_has_a_heartbeat(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub, view = h.stub(), View()
            beat = Duration(seconds=1)
            stream = stub.WatchStatus(pb.WatchStatusRequest(heartbeat_interval=beat))
            events = stub.WatchEvents(pb.WatchEventsRequest(heartbeat_interval=beat))
            await view.read(stream, lambda: view.heartbeats == 2)
            _opening, silence = await anext(aiter(events)), await anext(aiter(events))
            assert not silence.events
            assert silence.resume_token

    run(play())


@pytest.mark.parametrize("token", ["", "{epoch}.{last}"], ids=["from now", "resumed"])
def test_whoever_watches_events_is_heard_at_once(tmp_path: Path, token: str) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            token_of_now = token.format(epoch=h.epoch, last=h.store.last_sequence)
            request = pb.WatchEventsRequest(
                resume_token=token_of_now, heartbeat_interval=Duration(seconds=3600)
            )
            async with asyncio.timeout(20):
                opening = await anext(aiter(h.stub().WatchEvents(request)))
            assert not opening.events
            assert opening.resume_token == f"{h.epoch}.{h.store.last_sequence}"

    run(play())


def test_a_large_snapshot_comes_in_pieces_of_one_revision(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path, [spec(f"i{n:04}") for n in range(1100)]) as h:
            stub, view = h.stub(), View()
            stream = stub.WatchStatus(pb.WatchStatusRequest())
            await view.read(stream, lambda: bool(view.token))
            assert view.pieces == 3
            assert len(view.instances) == 1100
            assert view.revision == h.store.revision

    run(play())


def test_every_stream_ends_with_unavailable_when_the_daemon_does(tmp_path: Path) -> None:
    async def play() -> None:
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

    run(play())


def test_whoever_is_sent_away_cannot_come_back_to_a_server_that_stops(tmp_path: Path) -> None:
    # There a client of gRPC may be left waiting for ever, without an error.
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stream = h.stub().WatchStatus(pb.WatchStatusRequest())
            await anext(aiter(stream))
            assert "s" in os.listdir(tmp_path)
            stopping = asyncio.create_task(h.server.stop())
            await refused(_drain(stream))
            assert "s" not in os.listdir(tmp_path)
            await stopping

    run(play())


def test_a_server_that_is_stopped_twice_leaves_alone_the_socket_of_the_next(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            await h.server.stop()
            (tmp_path / "s").touch()
            await h.server.stop()
            assert (tmp_path / "s").exists()

    run(play())


def test_a_socket_that_cannot_be_removed_does_not_keep_the_server_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "read-only", str(path))

    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stream = h.stub().WatchStatus(pb.WatchStatusRequest())
            await anext(aiter(stream))
            with monkeypatch.context() as patched:
                patched.setattr(Path, "unlink", read_only)
                await h.server.stop()
            error = await refused(_drain(stream))
            assert error.reason == "SHUTTING_DOWN"

    run(play())


async def _drain(stream: grpc.aio.UnaryStreamCall[Any, Any]) -> None:
    async for _ in stream:
        pass


def test_a_limit_is_named_and_a_place_that_is_left_is_free(tmp_path: Path) -> None:
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


def test_streams_whose_clients_are_gone_leave_nothing(tmp_path: Path) -> None:
    async def play() -> None:
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
                    stream.cancel()  # grpcio before 1.82 does not when it closes the channel
                await h.channels[-1].close()
                await until(lambda: h.watchers == 0)
            assert not h.hub._watchers

    run(play())


def test_the_last_lines_and_no_more_than_asked(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            for lines, expected in ((2, ["a 4", "a 5"]), (0, []), (None, [f"a {n}" for n in range(1, 6)])):
                request = pb.TailLogsRequest(instance_id="a", lines=lines)
                got = [line.text async for message in stub.TailLogs(request) for line in message.lines]
                assert got == expected

    run(play())


def test_events_are_listed_in_pages_and_followed_from_there(tmp_path: Path) -> None:
    async def play() -> None:
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
            seen: list[pb.Event] = []
            while not any(e.kind == pb.EVENT_KIND_DOWN for e in seen):
                message = await anext(aiter(stream))
                assert not message.HasField("gap")
                seen += message.events
            assert [e.sequence for e in seen] == list(range(len(events) + 1, len(events) + 1 + len(seen)))
            told = await anext(aiter(stub.WatchEvents(pb.WatchEventsRequest(resume_token="earlier.7"))))
            assert told.HasField("gap")
            assert told.gap.missed == 0

    run(play())


def test_a_thousand_watchers_of_which_two_hundred_never_read(tmp_path: Path) -> None:
    """Unary calls go on, those that read converge, memory is bounded, and every place is free afterwards."""
    readers, stalled, rounds = 800, 200, 12

    async def play() -> None:
        async with server_harness(tmp_path, [spec(f"i{n:03}") for n in range(150)]) as h:
            # A client's read-ahead is off for those that never read, so that the server has to hold still.
            asleep = [
                h.channel(options={"http2.lookahead_bytes": 1, "http2.bdp_probe": 0}) for _ in range(10)
            ]
            idle = [
                pb_grpc.HostManagerServiceStub(asleep[n % 10]).WatchStatus(pb.WatchStatusRequest())
                for n in range(stalled)
            ]
            for stream in idle:
                await stream.initial_metadata()
            awake = [h.channel() for _ in range(10)]
            # Reading raw bytes and looking at the last ones keeps the cost of 800 clients out of the test.
            method = "/hostmanager.v1.HostManagerService/WatchStatus"
            views = [_Last() for _ in range(readers)]
            reading = [
                asyncio.ensure_future(
                    view.read(
                        awake[n % 10].unary_stream(
                            method, request_serializer=bytes, response_deserializer=bytes
                        )(b"")
                    )
                )
                for n, view in enumerate(views)
            ]
            await until(lambda: h.watchers == readers + stalled)
            await until(lambda: all(view.data for view in views))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            stub = h.stub()
            everyone = [
                pb.TargetChange(all=True, target_state=t) for t in (pb.TARGET_STATE_DOWN, pb.TARGET_STATE_UP)
            ]
            for turn in range(rounds):
                await stub.Update(pb.UpdateRequest(requests=[everyone[turn % 2]]))
                status = await stub.GetStatus(pb.GetStatusRequest())
                assert len(status.child_states) == 150
            await until(lambda: len(h.host.runs) == 150)
            await stub.Update(pb.UpdateRequest(requests=[*down("i000"), *up("i001")]))
            await until(lambda: h.host.run_of("i000") is None)
            await until(lambda: all(view.revision() == h.store.revision for view in views))
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 400 * 1024, f"{grown} KiB more, the clients in this process included"
            for task in reading:
                task.cancel()
            for stream in idle:
                stream.cancel()
            await until(lambda: h.watchers == 0)
            assert not h.hub._watchers

    run(play())


class _Last:
    def __init__(self) -> None:
        self.data = b""

    async def read(self, stream: grpc.aio.UnaryStreamCall[Any, bytes]) -> None:
        async for self.data in stream:
            pass

    def revision(self) -> int:
        return pb.WatchStatusResponse.FromString(self.data).revision


def test_no_message_is_too_large_for_a_client_as_it_comes(tmp_path: Path) -> None:
    large = [
        replace(spec(f"i{number:04}"), process=ProcessSpec(("agent", "x" * 10_000))) for number in range(450)
    ]

    async def play() -> None:
        async with server_harness(tmp_path, large) as h:
            stub = h.stub()
            listed: list[str] = []
            token = ""
            while True:
                page = await stub.ListInstances(pb.ListInstancesRequest(page_size=1000, page_token=token))
                listed += [instance.instance_id for instance in page.instances]
                if not (token := page.next_page_token):
                    break
            assert listed == [each.instance_id for each in large]

            call: Any = stub.WatchStatus(pb.WatchStatusRequest())
            seen: dict[str, int] = {}
            while True:
                first = await call.read()
                seen |= {i.instance_id: i.generation for i in first.snapshot.instances}
                if first.snapshot.last:
                    break
                assert not first.resume_token
            assert len(seen) == 450

            answer = await stub.Update(pb.UpdateRequest(requests=down("all")))
            late: Any = stub.WatchStatus(pb.WatchStatusRequest(resume_token=answer.resume_token))
            pieces: list[Any] = []
            while seen and min(seen.values()) < 2:
                pieces.append(await late.read())
                seen |= {i.instance_id: i.generation for i in pieces[-1].delta.instances}
            assert len(pieces) > 4
            assert pieces[0].resume_token == answer.resume_token, (
                "to resume from its middle is to get all of it"
            )

    run(play())


def test_a_follower_of_a_quiet_instance_hears_at_once_that_it_follows(tmp_path: Path) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stream = h.stub().TailLogs(pb.TailLogsRequest(instance_id="a", lines=0, follow=True))
            assert await stream.read() == pb.TailLogsResponse()
            stream.cancel()

    run(play())
