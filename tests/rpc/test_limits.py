"""Limits on clients: errors name the limit, and other clients still get answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_server.rpc import pending_requests
from hostmanager_server.rpc.admission import AdmissionControl, Pacer
from hostmanager_server.rpc.limits import Limit, Limits
from hostmanager_server.rpc.server_options import server_options

from tests.rpc.harness import (
    messages,
    refused,
    server_harness,
    spec,
    until,
    up,
)

CODE = grpc.StatusCode
LONG = "x" * 81
MANY = [f"i{n}" for n in range(1001)]


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Update", pb.UpdateRequest(requests=up(*MANY)), "requests"),
        ("Update", pb.UpdateRequest(requests=up(*MANY), reload_config=True), "requests"),
        ("StartManager", pb.StartManagerRequest(requests=up(*MANY)), "requests"),
        ("Restart", pb.RestartRequest(instance_ids=MANY), "instance_ids"),
        ("Hold", pb.HoldRequest(instance_ids=MANY), "instance_ids"),
        ("Release", pb.ReleaseRequest(instance_ids=MANY), "instance_ids"),
        ("ListInstances", pb.ListInstancesRequest(instance_ids=MANY), "instance_ids"),
        ("ListEvents", pb.ListEventsRequest(instance_ids=MANY), "instance_ids"),
        ("WatchStatus", pb.WatchStatusRequest(instance_ids=MANY), "instance_ids"),
        ("WatchEvents", pb.WatchEventsRequest(instance_ids=MANY), "instance_ids"),
        ("DockerPull", pb.DockerPullRequest(instance_ids=MANY), "instance_ids"),
        ("RemoveOrphans", pb.RemoveOrphansRequest(container_ids=MANY), "container_ids"),
    ],
)
async def test_a_request_with_more_than_a_thousand_ids_is_refused(
    tmp_path: Path, method: str, request_: Any, field: str
) -> None:
    async with server_harness(tmp_path) as h:
        call = getattr(h.stub(), method)(request_)
        error = await refused(call if isinstance(call, grpc.aio.UnaryUnaryCall) else call.read())
        assert error.code is CODE.INVALID_ARGUMENT
        assert error.metadata == {"limit": "max-ids-per-request", "value": "1000"}
        assert "1001" in error.message
        assert list(error.violations) == [field]


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Update", pb.UpdateRequest(requests=up("a", LONG)), "requests[1].instance_id"),
        ("Restart", pb.RestartRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("Hold", pb.HoldRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("Release", pb.ReleaseRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("GetInstance", pb.GetInstanceRequest(instance_id=LONG), "instance_id"),
        ("ListInstances", pb.ListInstancesRequest(instance_ids=["a", LONG]), "instance_ids[1]"),
        ("ListInstances", pb.ListInstancesRequest(page_token="after:" + "x" * 2000), "page_token"),
        ("ListEvents", pb.ListEventsRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("ListEvents", pb.ListEventsRequest(page_token="x" * 2000), "page_token"),
        ("WatchStatus", pb.WatchStatusRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("WatchStatus", pb.WatchStatusRequest(resume_token="x" * 2000), "resume_token"),
        ("WatchEvents", pb.WatchEventsRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("WatchEvents", pb.WatchEventsRequest(resume_token="x" * 2000), "resume_token"),
        ("TailLogs", pb.TailLogsRequest(instance_id=LONG), "instance_id"),
        ("DockerPull", pb.DockerPullRequest(instance_ids=[LONG]), "instance_ids[0]"),
        ("RemoveOrphans", pb.RemoveOrphansRequest(container_ids=[LONG]), "container_ids[0]"),
        ("Die", pb.DieRequest(expected_epoch="x" * 2000), "expected_epoch"),
        ("Upgrade", pb.UpgradeRequest(expected_epoch="x" * 2000), "expected_epoch"),
    ],
)
async def test_a_text_that_no_instance_can_have_is_refused_and_not_repeated(
    tmp_path: Path, method: str, request_: Any, field: str
) -> None:
    async with server_harness(tmp_path) as h:
        call = getattr(h.stub(), method)(request_)
        error = await refused(call if isinstance(call, grpc.aio.UnaryUnaryCall) else call.read())
        assert error.code is CODE.INVALID_ARGUMENT
        assert error.metadata["limit"] in ("max-id-characters", "max-token-characters")
        assert list(error.violations) == [field]
        assert len(error.message) < 300


async def test_an_instance_with_a_longer_id_can_be_used(tmp_path: Path) -> None:
    """Compose services may have longer names than the site config allows."""
    name = "service-" * 12

    async with server_harness(tmp_path, [spec(name)]) as h:
        stub = h.stub()
        assert (await stub.GetInstance(pb.GetInstanceRequest(instance_id=name))).instance
        await stub.Update(pb.UpdateRequest(requests=up(name)))
        watch: Any = stub.WatchStatus(pb.WatchStatusRequest(instance_ids=[name]))
        assert [i.instance_id for i in (await watch.read()).snapshot.instances] == [name]


async def test_a_thousand_ids_of_eighty_characters_are_accepted(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        ids = [f"{n:04}" + "\U0001f52d" * 76 for n in range(1000)]  # four bytes each
        watch: Any = h.stub().WatchStatus(pb.WatchStatusRequest(instance_ids=ids))
        assert (await watch.read()).snapshot.last


async def test_filters_take_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    limits = Limits(filter_bytes=Limit(1024**2, 400_000))

    async with server_harness(tmp_path, limits=limits) as h:
        stub = h.stub()
        request = pb.WatchStatusRequest(instance_ids=[f"{n:080}" for n in range(1000)])
        streams = [stub.WatchStatus(request) for _ in range(20)]
        ends = await asyncio.gather(*(s.read() for s in streams), return_exceptions=True)
        errors = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert 0 < len(errors) < 20
        for error in errors:
            assert error.code() is CODE.RESOURCE_EXHAUSTED
            assert "max-filter-bytes-per-client=400000" in (error.details() or "")
        assert 0 < h.server.admission[0].filter_bytes.held <= 400_000
        # Ids of tracked instances cost next to nothing, and no filter costs nothing.
        assert await stub.WatchStatus(pb.WatchStatusRequest(instance_ids=["a", "b"])).read()
        assert await stub.WatchStatus(pb.WatchStatusRequest()).read()
        for stream in streams:
            stream.cancel()
        await until(lambda: h.server.admission[0].filter_bytes.held < 1000)


async def test_requests_that_wait_take_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    request = pb.UpdateRequest(requests=up(*(f"{n:080}" for n in range(1000))))
    most = 3 * request.ByteSize()

    async with server_harness(tmp_path, limits=Limits(waiting_request_bytes=Limit(2 * most, most))) as h:
        stub = h.stub()
        admission = h.server.admission[0]
        async with admission.large_change_pacer:
            calls = [asyncio.ensure_future(refused(stub.Update(request))) for _ in range(20)]
            await until(lambda: admission.request_bytes.held == most)
            assert await stub.GetInstance(pb.GetInstanceRequest(instance_id="a")), (
                "a small request costs nothing"
            )
            await until(lambda: sum(call.done() for call in calls) == 17)
        errors = await asyncio.gather(*calls)
        assert [error.code for error in errors].count(CODE.NOT_FOUND) == 3
        limited = [error for error in errors if error.code is CODE.RESOURCE_EXHAUSTED]
        assert len(limited) == 17
        for error in limited:
            assert error.metadata == {"limit": "max-waiting-request-bytes-per-client", "value": str(most)}
        await until(lambda: admission.request_bytes.held == 0)


async def test_a_stream_does_not_keep_its_request(tmp_path: Path) -> None:
    requests: dict[str, Any] = {
        "WatchStatus": pb.WatchStatusRequest(instance_ids=["a", "kept"]),
        "WatchEvents": pb.WatchEventsRequest(instance_ids=["kept"], resume_token="e0.0"),
        "TailLogs": pb.TailLogsRequest(instance_id="a", follow=True, lines=77),
    }

    async with server_harness(tmp_path) as h:
        channel = h.channel()
        streams = []
        for name, request in requests.items():
            method = channel.unary_stream(
                f"/hostmanager.v1.HostManagerService/{name}",
                request_serializer=bytes, response_deserializer=bytes,
            )  # fmt: skip
            streams.append(method(request.SerializeToString()))
            await streams[-1].read()
        gc.collect()
        wanted = tuple(type(request) for request in requests.values())
        held = [o for o in gc.get_objects() if isinstance(o, wanted) and o in requests.values()]
        assert len(held) == len(requests), "only the requests of this test itself"
        for stream in streams:
            stream.cancel()


async def test_a_refused_request_is_freed_without_a_garbage_collection(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        gc.collect()
        gc.disable()
        try:
            request = pb.UpdateRequest(requests=up("freed"))
            for _ in range(3):
                assert (await refused(stub.Update(request))).code is CODE.NOT_FOUND
            held = [o for o in gc.get_objects() if isinstance(o, pb.UpdateRequest) and o == request]
            assert len(held) == 1, "only the request of this test itself"
        finally:
            gc.enable()


def _reflection(channel: Any) -> Any:
    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        await asyncio.Event().wait()

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    return stub.ServerReflectionInfo(requests())


def _health(channel: Any) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest())


def _status(channel: Any) -> Any:
    return pb_grpc.HostManagerServiceStub(channel).WatchStatus(pb.WatchStatusRequest())


@pytest.mark.parametrize("opened", [_reflection, _health, _status])
async def test_streams_of_every_kind_are_counted_and_end_with_the_daemon(tmp_path: Path, opened: Any) -> None:
    async with server_harness(tmp_path, limits=Limits(watchers=3, watchers_per_client=2)) as h:
        channel = h.channel()
        streams = [opened(channel) for _ in range(2)]
        for stream in streams:
            await stream.read()
        for more in (_reflection, _health, _status):
            error = await refused(more(channel).read())
            assert error.code is CODE.RESOURCE_EXHAUSTED
            assert error.metadata == {"limit": "max-watchers-per-client", "value": "2"}
        await h.answers_another_client()
        streams.pop().cancel()
        await until(lambda: h.watchers == 1)
        another = opened(channel)
        await another.read()
        streams.append(another)
        closing = asyncio.ensure_future(h.server.stop())
        for stream in streams:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await messages(stream)
            assert caught.value.code() is CODE.UNAVAILABLE
        await closing
        assert h.watchers == 0


async def test_log_streams_are_few_and_leave_room_for_watches(tmp_path: Path) -> None:
    async with server_harness(tmp_path, limits=Limits(log_streams=Limit(3, 2))) as h:
        stub = h.stub()
        request = pb.TailLogsRequest(instance_id="a", follow=True)
        # gRPC before 1.83 cancels a call that the program lets go of (seen with 1.75.1).
        streams = [stub.TailLogs(request) for _ in range(2)]
        for stream in streams:
            await stream.read()
        error = await refused(stub.TailLogs(request).read())
        assert error.metadata == {"limit": "max-log-streams-per-client", "value": "2"}
        assert await stub.WatchStatus(pb.WatchStatusRequest()).read()


async def test_an_event_does_not_repeat_a_thousand_names(tmp_path: Path) -> None:
    ids = [f"i{n:03}" for n in range(300)]

    async with server_harness(tmp_path, [spec(i) for i in ids]) as h:
        stub = h.stub()
        await stub.Update(pb.UpdateRequest(requests=up(*ids)))
        await stub.Restart(pb.RestartRequest(instance_ids=ids))
        kinds = ("Update", "Restart")
        listed = await stub.ListEvents(pb.ListEventsRequest(page_size=1000))
        logged = [e.message for e in listed.events if e.reason in kinds]
        assert len(logged) == 2
        for message in logged:
            assert len(message) < 400
            assert message.endswith("and 280 more")


async def test_other_tasks_run_between_two_paced_pieces() -> None:
    pacer = Pacer()
    order: list[int] = []

    async def piece(number: int) -> None:
        async with pacer:
            order.append(number)

    async def other() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        order.append(-1)

    await asyncio.gather(*(piece(number) for number in range(50)), other())
    assert sorted(order) == [-1, *range(50)]
    assert [number for number in order if number >= 0] == list(range(50)), "in order of arrival"
    assert order.index(-1) < 10


def test_every_name_of_a_limit_is_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
    admission = AdmissionControl(Limits())
    limiters = (
        admission.streams,
        admission.log_streams,
        admission.engine_streams,
        admission.filter_bytes,
        admission.long_calls,
        admission.queued_calls,
        admission.request_bytes,
    )
    names = [limiter.name for limiter in limiters]
    for name in (
        *names,
        pending_requests.NAME,
        "max-ids-per-request",
        "max-id-characters",
        "max-token-characters",
    ):
        assert f"`{name}`" in page


def test_a_ping_times_out_before_the_next_keepalive() -> None:
    options = dict(server_options(Limits(), 1))
    assert options["grpc.http2.ping_timeout_ms"] <= options["grpc.keepalive_time_ms"]


def test_bursts_of_calls_wait_in_bounded_memory() -> None:
    """Calls above the limit get CANCELLED from gRPC, as if the client had cancelled them."""
    options = dict(server_options(Limits(), 1))
    first, most = (
        options["grpc.server.max_pending_requests"],
        options["grpc.server.max_pending_requests_hard_limit"],
    )
    assert 1000 < first < most, "more than gRPC's default"
    assert most * 17_000 < 64 * 1024**2
    assert options["grpc.experimental.tcp_max_read_chunk_size"] <= 16 * 1024
