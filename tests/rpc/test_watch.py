"""WatchStatus: snapshots, deltas, resuming, heartbeats and many readers."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_server.core.events import ExitStatus
from hostmanager_server.core.spec import HostSpec, ProcessSpec

from tests.in_memory import MemoryConfig
from tests.rpc.harness import ServerHarness, WatchState, down, server_harness, spec, until, up

CODE = grpc.StatusCode
Snapshot = pb.StatusSnapshot


async def test_a_watch_begins_with_a_snapshot_and_follows(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub, view = h.stub(), WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest())
        await view.read(stream, lambda: len(view.instances) == 3)
        assert view.reasons == [Snapshot.REASON_INITIAL]
        await stub.Update(pb.UpdateRequest(requests=down("a")))
        await view.read(stream, lambda: view.instances["a"].next_action == pb.NEXT_ACTION_DOWN)
        h.config = MemoryConfig(HostSpec("host", (spec("b"), spec("d"))))
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


async def test_a_resumed_watch_gets_what_it_missed_and_no_more(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub, view = h.stub(), WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest())
        await view.read(stream, lambda: len(view.instances) == 3)
        stream.cancel()
        h.config = MemoryConfig(HostSpec("host", (spec("a"), spec("b"))))
        await stub.Update(pb.UpdateRequest(reload_config=True, requests=down("a")))
        await until(lambda: len(h.store.snapshot().instances) == 2 and h.host.run_of("a") is None)
        first = await anext(aiter(stub.WatchStatus(pb.WatchStatusRequest(resume_token=view.token))))
        assert {i.instance_id for i in first.delta.instances} == {"a"}
        assert list(first.delta.removed_instance_ids) == ["c"]


async def test_a_watch_that_cannot_resume_says_why_and_starts_over(tmp_path: Path) -> None:
    async with server_harness(tmp_path, removals_kept=0) as h:
        stub = h.stub()
        token = (await stub.GetStatus(pb.GetStatusRequest())).resume_token
        h.config = MemoryConfig(HostSpec("host", (spec("a"),)))
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


async def test_a_reader_that_missed_forgotten_removals_is_resynced_in_its_stream(tmp_path: Path) -> None:
    async with server_harness(tmp_path, removals_kept=0) as h:
        stub, view = h.stub(), WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest())
        await view.read(stream, lambda: len(view.instances) == 3)
        h.config = MemoryConfig(HostSpec("host", (spec("a"),)))
        await stub.Update(pb.UpdateRequest(reload_config=True))
        await view.read(stream, lambda: view.instances.keys() == {"a"})
        assert view.reasons[0] == Snapshot.REASON_INITIAL
        assert set(view.reasons[1:]) == {Snapshot.REASON_SLOW_CONSUMER}


async def test_a_filtered_watch_gets_only_its_instances(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub, view = h.stub(), WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest(instance_ids=["b", "later"]))
        await view.read(stream, lambda: view.instances.keys() == {"b"})
        h.config = MemoryConfig(HostSpec("host", (spec("a"), spec("b"), spec("later"))))
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


async def test_a_quiet_watch_has_a_heartbeat(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub, view = h.stub(), WatchState()
        beat = Duration(seconds=1)
        stream = stub.WatchStatus(pb.WatchStatusRequest(heartbeat_interval=beat))
        events = stub.WatchEvents(pb.WatchEventsRequest(heartbeat_interval=beat))
        await view.read(stream, lambda: view.heartbeats == 2)
        _opening, silence = await anext(aiter(events)), await anext(aiter(events))
        assert not silence.events
        assert silence.resume_token


async def test_a_large_snapshot_comes_in_chunks_of_one_revision(tmp_path: Path) -> None:
    async with server_harness(tmp_path, [spec(f"i{n:04}") for n in range(1100)]) as h:
        stub, view = h.stub(), WatchState()
        stream = stub.WatchStatus(pb.WatchStatusRequest())
        await view.read(stream, lambda: bool(view.token))
        assert view.chunks == 3
        assert len(view.instances) == 1100
        assert view.revision == h.store.revision


async def test_no_message_exceeds_the_default_limit_of_clients(tmp_path: Path) -> None:
    large = [
        replace(spec(f"i{number:04}"), process=ProcessSpec(("agent", "x" * 10_000))) for number in range(450)
    ]

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
        generations: dict[str, int] = {}
        while True:
            first = await call.read()
            generations |= {i.instance_id: i.generation for i in first.snapshot.instances}
            if first.snapshot.last:
                break
            assert not first.resume_token
        assert len(generations) == 450

        answer = await stub.Update(pb.UpdateRequest(requests=down("all")))
        late: Any = stub.WatchStatus(pb.WatchStatusRequest(resume_token=answer.resume_token))
        chunks: list[Any] = []
        while min(generations.values()) < 2:
            chunks.append(await late.read())
            generations |= {i.instance_id: i.generation for i in chunks[-1].delta.instances}
        assert len(chunks) > 4
        assert chunks[0].resume_token == answer.resume_token, (
            "resuming from the middle of a delta repeats the whole delta"
        )


READERS, STALLED, ROUNDS, INSTANCES = 800, 200, 12, 150
MEMORY_GROWTH = 400 * 1024  # KiB, the clients in this process included


async def test_a_thousand_watchers_converge_while_two_hundred_never_read(tmp_path: Path) -> None:
    """Unary calls go on, readers converge, memory is bounded, and every stream is freed afterwards."""

    async with server_harness(tmp_path, [spec(f"i{n:03}") for n in range(INSTANCES)]) as h:
        idle = await open_stalled_watches(h)
        readers = [LastMessage() for _ in range(READERS)]
        reading = start_reading(h, readers)
        await until(lambda: h.watchers == READERS + STALLED)
        await until(lambda: all(reader.data for reader in readers))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await change_everything(h)
        await until(lambda: all(reader.revision() == h.store.revision for reader in readers))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < MEMORY_GROWTH, f"{grown} KiB more"
        for task in reading:
            task.cancel()
        for watch in idle:
            watch.cancel()
        # gRPC before 1.84 leaves the generator of a failed handler to asyncio, which closes it later.
        await until(lambda: h.watchers == 0 and not h.hub._clients)


async def open_stalled_watches(h: ServerHarness) -> list[grpc.aio.UnaryStreamCall[Any, Any]]:
    """Open watches that read no message.

    Without read-ahead in the client, the server must hold the messages back.
    """
    channels = [h.channel(options={"http2.lookahead_bytes": 1, "http2.bdp_probe": 0}) for _ in range(10)]
    watches = [
        pb_grpc.HostManagerServiceStub(channels[n % 10]).WatchStatus(pb.WatchStatusRequest())
        for n in range(STALLED)
    ]
    for watch in watches:
        await watch.initial_metadata()
    return watches


class LastMessage:
    """The last message of a stream, as bytes: parsing every message for 800 readers would be slow."""

    def __init__(self) -> None:
        self.data = b""

    async def read(self, stream: grpc.aio.UnaryStreamCall[Any, bytes]) -> None:
        async for self.data in stream:
            pass

    def revision(self) -> int:
        return pb.WatchStatusResponse.FromString(self.data).revision


def start_reading(h: ServerHarness, readers: list[LastMessage]) -> list[asyncio.Task[None]]:
    """Open a watch for each reader, over ten connections."""
    channels = [h.channel() for _ in range(10)]
    method = "/hostmanager.v1.HostManagerService/WatchStatus"
    tasks = []
    for number, reader in enumerate(readers):
        watch = channels[number % 10].unary_stream(
            method, request_serializer=bytes, response_deserializer=bytes
        )
        tasks.append(asyncio.ensure_future(reader.read(watch(b""))))
    return tasks


async def change_everything(h: ServerHarness) -> None:
    """Bring all instances down and up again, several times, and check that unary calls get answers."""
    stub = h.stub()
    targets = (pb.TARGET_STATE_DOWN, pb.TARGET_STATE_UP)
    for number in range(ROUNDS):
        change = pb.TargetChange(all=True, target_state=targets[number % 2])
        await stub.Update(pb.UpdateRequest(requests=[change]))
        status = await stub.GetStatus(pb.GetStatusRequest())
        assert len(status.child_states) == INSTANCES
    await until(lambda: len(h.host.runs) == INSTANCES)
    await stub.Update(pb.UpdateRequest(requests=[*down("i000"), *up("i001")]))
    await until(lambda: h.host.run_of("i000") is None)
