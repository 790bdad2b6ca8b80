"""Benchmarks of many watchers of one change, and of a child with much output."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from benchmarks import child_log
from benchmarks.managers import HostManager
from benchmarks.table import Row

CONNECTIONS = 16  # fewer would not carry 1,000 streams: see streams_per_connection in rpc.limits


def watchers(*, quick: bool) -> list[Row]:
    """Measure one change until the last of many watchers has it; all watchers are in this process."""
    rows = []
    for count, reach in ((100, 15), (1000, 100)):
        with HostManager(1) as ours:
            times = asyncio.run(_fan_out(f"unix:{ours.socket}", count, 5 if quick else 15))
        rows.append(
            Row(f"one change to the last of {count} watchers", "ms", median(times), reach=reach,
                note="the reading process is Python too, and shares the two cores")
        )  # fmt: skip
    return rows


async def _fan_out(address: str, count: int, rounds: int) -> list[float]:
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(CONNECTIONS)]
    stubs = [pb_grpc.HostManagerServiceStub(channel) for channel in channels]
    streams = [stubs[n % CONNECTIONS].WatchStatus(pb.WatchStatusRequest()) for n in range(count)]
    await asyncio.gather(*(stream.read() for stream in streams))
    times = []
    change = pb.TargetChange(instance_id="i0000", target_state=pb.TARGET_STATE_DOWN)
    for _ in range(rounds):
        # The target is set already, so each update changes only the generation.
        reads = [asyncio.ensure_future(stream.read()) for stream in streams]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await stubs[0].Update(pb.UpdateRequest(requests=[change]))
        await asyncio.gather(*reads)
        times.append((time.monotonic() - began) * 1e3)
    for stream in streams:
        stream.cancel()
    for channel in channels:
        await channel.close()
    return times


def log(*, quick: bool) -> list[Row]:
    """Measure the output of a child, in lines of 100 bytes and blocks of 64 KiB."""
    plain, ours = child_log.run()
    return [
        Row("a child's log: time per GiB", "s", 1024 / ours.mib_per_second,
            {"plain file": 1024 / plain.mib_per_second}, reach=1.1, reach_of="plain file"),
        Row("a child's log: the daemon's CPU per GiB", "s", ours.daemon_cpu_seconds,
            note="rotation copies each GiB once"),
    ]  # fmt: skip
