"""GetUsage and WatchUsage: shared measurements, only while somebody reads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.usage import Usage
from hostmanager_server.rpc.usage_sampler import UsageSample, cpu_in_use

from tests.rpc.harness import down, refused, server_harness, until

CODE = grpc.StatusCode
SHORT = Duration(nanos=500_000_000)


def sampling() -> bool:
    """Return whether the thread of the measurements exists."""
    return any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


async def read(stream: Any) -> pb.WatchUsageResponse:
    message = await stream.read()
    assert isinstance(message, pb.WatchUsageResponse)
    return message


async def test_a_call_measures_the_named_instances_once(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        answer = await h.stub().GetUsage(pb.GetUsageRequest(instance_ids=["b"], selectors=["a*"]))
        assert h.meter.measured == [("a", "b")]
        assert [usage.instance_id for usage in answer.usages] == ["a", "b"]
        usage = answer.usages[0]
        assert (usage.memory, usage.tasks, usage.descriptors, usage.processes) == (4096, 2, 3, 1)
        assert usage.memory_source == pb.InstanceUsage.MEMORY_SOURCE_PROCESSES
        assert usage.cpu_time.ToMilliseconds() == 1500
        assert not usage.HasField("cpu")
        assert not usage.HasField("memory_limit")


async def test_a_window_brings_the_cpu_in_use(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        request = pb.GetUsageRequest(instance_ids=["a"], window=Duration(nanos=10_000_000))
        answer = await h.stub().GetUsage(request)
        assert h.meter.measured == [("a",)] * 2
        assert answer.usages[0].HasField("cpu")


def test_cpu_counts_only_within_one_run() -> None:
    def sample(at: float, number: int, cpu_time: float) -> UsageSample:
        return UsageSample(at, {"a": Usage(number, cpu_time, 1, 1, 1)})

    assert cpu_in_use(sample(1.0, 1, 5.0), sample(3.0, 1, 6.0), "a") == 0.5
    assert cpu_in_use(sample(1.0, 1, 5.0), sample(3.0, 1, 4.0), "a") == 0.0  # a process without parent ended
    assert cpu_in_use(sample(1.0, 1, 5.0), sample(3.0, 2, 6.0), "a") is None
    assert cpu_in_use(UsageSample(1.0, {}), sample(3.0, 1, 6.0), "a") is None
    assert cpu_in_use(None, sample(3.0, 1, 6.0), "a") is None


async def test_all_streams_share_the_measurements(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        request = pb.WatchUsageRequest(interval=SHORT)
        streams = [stub.WatchUsage(request) for _ in range(5)]
        first = [(await read(stream)).usages for stream in streams]
        second = [(await read(stream)).usages for stream in streams]
        assert len(h.meter.measured) <= 4
        assert all(len(usages) == 3 for usages in (*first, *second))
        assert all(usage.HasField("cpu") for usages in second for usage in usages)


async def test_nothing_is_measured_without_a_reader(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        assert h.meter.measured == []
        stream = h.stub().WatchUsage(pb.WatchUsageRequest(interval=SHORT))
        await stream.read()
        stream.cancel()
        await until(lambda: h.watchers == 0 and not sampling())
        count = len(h.meter.measured)
        await h.stub().GetUsage(pb.GetUsageRequest(instance_ids=["a"]))
        assert len(h.meter.measured) == count + 1
        await until(lambda: not sampling())


async def test_a_stream_follows_its_filter_and_the_runs(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        stream = stub.WatchUsage(pb.WatchUsageRequest(selectors=["[ab]"], interval=SHORT))
        assert [usage.instance_id for usage in (await read(stream)).usages] == ["a", "b"]
        await stub.Update(pb.UpdateRequest(requests=down("a")))
        await until(lambda: h.host.run_of("a") is None)
        while [usage.instance_id for usage in (await read(stream)).usages] != ["b"]:
            pass
        failing = stub.WatchUsage(pb.WatchUsageRequest(failing=True, interval=SHORT))
        assert not (await read(failing)).usages


async def test_a_failed_measurement_ends_the_streams_and_the_next_one_works(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        h.meter.failure = OSError("no descriptors")
        refusal = await refused(h.stub().WatchUsage(pb.WatchUsageRequest()).read())
        assert refusal.code is CODE.INTERNAL
        refusal = await refused(h.stub().GetUsage(pb.GetUsageRequest()))
        assert refusal.code is CODE.INTERNAL
        h.meter.failure = None
        await until(lambda: h.watchers == 0)
        assert len((await read(h.stub().WatchUsage(pb.WatchUsageRequest()))).usages) == 3


@pytest.mark.parametrize("seconds", [0, 61])
async def test_an_interval_out_of_range_is_refused(tmp_path: Path, seconds: int) -> None:
    async with server_harness(tmp_path) as h:
        request = pb.WatchUsageRequest(interval=Duration(seconds=seconds))
        refusal = await refused(h.stub().WatchUsage(request).read())
        assert list(refusal.violations) == ["interval"]
        too_long = pb.GetUsageRequest(window=Duration(seconds=11))
        assert list((await refused(h.stub().GetUsage(too_long))).violations) == ["window"]
        unknown = await refused(h.stub().GetUsage(pb.GetUsageRequest(instance_ids=["x"])))
        assert unknown.code is CODE.NOT_FOUND


async def test_the_end_of_the_daemon_ends_the_streams(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stream = h.stub().WatchUsage(pb.WatchUsageRequest(interval=Duration(seconds=60)))
        await stream.read()
        h.hub.close()
        refusal = await refused(stream.read())
        assert refusal.reason == "SHUTTING_DOWN"
