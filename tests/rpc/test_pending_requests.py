"""Calls whose request does not come: they end, and take no place from others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.rpc import handlers, pending_requests
from hostmanager_server.rpc.limits import Limit, Limits

from tests.rpc.harness import ServerHarness, refused, server_harness, until

CODE = grpc.StatusCode
SERVICE = "hostmanager.v1.HostManagerService"
REFLECTION = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
HEALTH = "grpc.health.v1.Health"


def _without_request(h: ServerHarness, method: str) -> asyncio.Future[Any]:
    """Begin a call without a request; its first message, or its end."""
    call: Any = h.channel().stream_stream(f"/{method}")()

    async def first() -> object:
        return await call.read()

    return asyncio.ensure_future(first())


def _held(h: ServerHarness) -> int:
    return h.server.admission[0].pending_requests.held


@pytest.mark.parametrize(
    "method",
    [f"{SERVICE}/GetStatus", f"{SERVICE}/WatchStatus", f"{HEALTH}/Check", f"{HEALTH}/Watch", REFLECTION],
)
async def test_a_call_without_a_request_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(pending_requests, "REQUEST_PATIENCE", 0.05)

    async with server_harness(tmp_path) as h:
        async with asyncio.timeout(10):
            error = await refused(_without_request(h, method))
        assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert "none came within 0.05 s" in error.message
        await until(lambda: h.watchers == 0 and _held(h) == 0)


@pytest.mark.parametrize(
    "method", [f"{SERVICE}/Update", f"{SERVICE}/TailLogs", f"{HEALTH}/Check", f"{HEALTH}/Watch", REFLECTION]
)
async def test_a_call_that_ends_its_side_without_a_request_is_refused(tmp_path: Path, method: str) -> None:
    async with server_harness(tmp_path) as h:
        call: Any = h.channel().stream_stream(f"/{method}")()
        await call.done_writing()
        error = await refused(call.read())
        assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert "send one message" in error.message


@pytest.mark.parametrize(
    ("limit", "name"),
    [(Limit(9, 3), "max-calls-without-request-per-client"), (Limit(3, 9), "max-calls-without-request")],
)
async def test_the_oldest_call_without_a_request_makes_room(tmp_path: Path, limit: Limit, name: str) -> None:
    async with server_harness(tmp_path, limits=Limits(calls_without_request=limit)) as h:
        calls = []
        for number in range(3):
            calls.append(_without_request(h, f"{SERVICE}/GetStatus"))
            await until(lambda number=number: _held(h) == number + 1)  # type: ignore[misc]  # a lambda with a default
        await h.answers_another_client()  # of the same identity; its request takes the place of the oldest
        error = await refused(calls[0])
        assert (error.code, error.metadata) == (CODE.RESOURCE_EXHAUSTED, {"limit": name, "value": "3"})
        assert not any(call.done() for call in calls[1:])
        assert _held(h) == 2
        for call in calls[1:]:
            call.cancel()


async def test_calls_without_a_request_do_not_delay_the_end_of_the_daemon(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        calls = [_without_request(h, f"{SERVICE}/{method}") for method in ("GetStatus", "WatchStatus")]
        await until(lambda: _held(h) == 2)
        closing = asyncio.ensure_future(h.server.stop())
        for call in calls:
            error = await refused(call)
            assert (error.code, error.reason) == (CODE.UNAVAILABLE, "SHUTTING_DOWN")
        await closing


async def test_reflection_is_refused_only_after_its_request(tmp_path: Path) -> None:
    """A client of gRPC that still sends when the call ends may report INTERNAL instead of the status."""
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

    async with server_harness(tmp_path, tcp=True, limits=Limits(watchers_per_client=1)) as h:
        watch = h.stub().WatchStatus(pb.WatchStatusRequest())
        assert await watch.read()
        for address, code in ((h.addresses[1], CODE.UNIMPLEMENTED), (h.address, CODE.RESOURCE_EXHAUSTED)):
            call: Any = h.channel(address).stream_stream(f"/{REFLECTION}")()
            await until(lambda: _held(h) == 1)
            await call.write(request)
            assert (await refused(call.read())).code is code
        watch.cancel()


async def test_lists_that_wait_for_their_turn_are_limited(tmp_path: Path) -> None:
    async with server_harness(tmp_path, limits=Limits(queued_calls=Limit(9, 3))) as h:
        admission = h.server.admission[0]
        async with admission.large_list_pacer:
            stub = h.stub()
            lists = [asyncio.ensure_future(stub.ListInstances(pb.ListInstancesRequest())) for _ in range(3)]
            await until(lambda: admission.queued_calls.held == 3)
            error = await refused(stub.ListInstances(pb.ListInstancesRequest()))
            assert error.metadata == {"limit": "max-queued-calls-per-client", "value": "3"}
            assert await stub.ListInstances(pb.ListInstancesRequest(page_size=100)), (
                "a small list is no piece"
            )
        for answer in lists:
            assert len((await answer).instances) == 3
        assert admission.queued_calls.held == 0


async def test_refusals_that_wait_are_few_and_others_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "PACED_REFUSALS", 2)

    async with server_harness(tmp_path, limits=Limits(watchers_per_client=1)) as h:
        stub = h.stub()
        watch = stub.WatchStatus(pb.WatchStatusRequest())
        assert await watch.read()
        pacer = h.server.admission[0].answer_pacer
        async with pacer:
            paced = [
                asyncio.ensure_future(refused(stub.WatchStatus(pb.WatchStatusRequest()).read()))
                for _ in range(2)
            ]
            await until(lambda: pacer.waiting == 2)
            assert (await refused(stub.WatchStatus(pb.WatchStatusRequest()).read())).reason == "LIMIT_REACHED"
            assert not any(refusal.done() for refusal in paced)
        for refusal in paced:
            assert (await refusal).reason == "LIMIT_REACHED"
        watch.cancel()
