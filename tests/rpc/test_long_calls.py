"""Long calls: many reloads share one reading of the site config, and long calls are limited."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.event_log import Severity
from hostmanager_server.core.manager_status import Problem
from hostmanager_server.core.spec import HostSpec
from hostmanager_server.rpc.limits import Limit, Limits
from hostmanager_server.rpc.single_flight import SingleFlight

from tests.in_memory import MemoryConfig
from tests.rpc.harness import (
    refused,
    server_harness,
    spec,
    until,
    up,
)

CODE = grpc.StatusCode


async def test_reloads_at_once_share_the_readings_of_the_file(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        reads = []
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def read() -> MemoryConfig:
            reads.append(h.config)
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(60)
            return h.config

        h.supervisor._load_config = read
        stub = h.stub()
        check = pb.UpdateRequest(reload_config=True, validate_only=True)
        calls = [asyncio.ensure_future(stub.Update(check))]
        await until(lambda: len(reads) == 1)
        h.config = MemoryConfig(HostSpec("host", (spec("new"),)))
        calls += [asyncio.ensure_future(stub.Update(check)) for _ in range(50)]
        reload = pb.UpdateRequest(reload_config=True, requests=up("new"))
        calls += [asyncio.ensure_future(stub.Update(reload)) for _ in range(20)]
        await until(lambda: h.server.admission[0].long_calls.held == 71)
        await h.answers_another_client()
        gate.set()
        await asyncio.gather(*calls)
        assert len(reads) == 2
        events = await stub.ListEvents(pb.ListEventsRequest())
        assert [e.reason for e in events.events].count("ConfigRead") == 2  # one of them at the start


async def test_a_broken_config_that_many_clients_reload_is_logged_once(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def read() -> MemoryConfig:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(60)
            return MemoryConfig(None, (Problem(Severity.ERROR, "it is broken", "site.yaml"),))

        h.supervisor._load_config = read
        stub = h.stub()
        reload = pb.UpdateRequest(reload_config=True)
        calls = [asyncio.ensure_future(refused(stub.Update(reload))) for _ in range(20)]
        await until(lambda: h.server.admission[0].long_calls.held == 20)
        gate.set()
        errors = await asyncio.gather(*calls)
        assert {error.reason for error in errors} == {"CONFIG_UNUSABLE"}
        events = await stub.ListEvents(pb.ListEventsRequest())
        assert [e.reason for e in events.events].count("ConfigRejected") <= 2


async def test_calls_that_wait_are_bounded(tmp_path: Path) -> None:
    async with server_harness(tmp_path, limits=Limits(long_calls=Limit(10, 5))) as h:
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def read() -> MemoryConfig:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(60)
            return h.config

        h.supervisor._load_config = read
        stub = h.stub()
        check = pb.UpdateRequest(reload_config=True, validate_only=True)
        calls = [asyncio.ensure_future(stub.Update(check)) for _ in range(5)]
        await until(lambda: h.server.admission[0].long_calls.held == 5)
        error = await refused(stub.Update(check))
        assert error.metadata == {"limit": "max-long-calls-per-client", "value": "5"}
        await stub.Update(pb.UpdateRequest(requests=up("a")))
        gate.set()
        await asyncio.gather(*calls)


async def test_calls_during_a_run_share_the_next_run(tmp_path: Path) -> None:
    gate = asyncio.Event()
    rounds: list[int] = []

    async def work() -> int:
        rounds.append(len(rounds))
        number = len(rounds)
        await gate.wait()
        return number

    flight = SingleFlight(work)
    first = asyncio.ensure_future(flight())
    await until(lambda: len(rounds) == 1)
    others = [asyncio.ensure_future(flight()) for _ in range(10)]
    await asyncio.sleep(0)
    others[0].cancel()
    gate.set()
    assert await first == 1
    assert await asyncio.gather(*others[1:]) == [2] * 9
    assert await flight() == 3
