"""Hostile clients, run as `python -m benchmarks.hostile_loads LOAD SOCKET`.

A load prints `begun` before its first request, and continues until its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

CHANNELS = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")  # and empty settings

Stub: TypeAlias = "pb_grpc.HostManagerServiceAsyncStub"
Load = Callable[[str], Awaitable[None]]


def _channels(address: str, count: int = CHANNELS) -> list[grpc.aio.Channel]:
    own = [("grpc.use_local_subchannel_pool", 1)]
    return [grpc.aio.insecure_channel(address, own) for _ in range(count)]


def _stubs(address: str) -> list[Stub]:
    return [pb_grpc.HostManagerServiceStub(channel) for channel in _channels(address)]


async def _opened(streams: list[grpc.aio.Call]) -> None:
    """Keep streams open without reading their messages."""
    await asyncio.gather(*(stream.initial_metadata() for stream in streams), return_exceptions=True)
    await asyncio.Event().wait()


async def _repeat_forever(call: Callable[[int], Awaitable[object]], at_once: int) -> None:
    async def repeat(number: int) -> None:
        while True:
            try:
                await call(number)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.001)

    await asyncio.gather(*(repeat(number) for number in range(at_once)))


def _ids(count: int, characters: int) -> list[str]:
    return [f"unknown-{number:0{characters - 8}}" for number in range(count)]


async def huge_filters(address: str) -> None:
    """360 watches with filters of 1 MB."""
    stubs = _stubs(address)
    request = pb.WatchStatusRequest(instance_ids=_ids(16_000, 60))
    await _opened([stubs[n % CHANNELS].WatchStatus(request) for n in range(360)])


async def largest_filters(address: str) -> None:
    """2,000 watches with filters of 1,000 ids of 80 characters."""
    stubs = _stubs(address)
    request = pb.WatchStatusRequest(instance_ids=_ids(1000, 80), heartbeat_interval=Duration(seconds=1))
    await _opened([stubs[n % CHANNELS].WatchStatus(request) for n in range(2000)])


async def huge_updates(address: str) -> None:
    """4 clients that send updates of 45,000 unknown ids."""
    stubs = _stubs(address)
    changes = [pb.TargetChange(instance_id=i, target_state=pb.TARGET_STATE_UP) for i in _ids(45_000, 14)]
    request = pb.UpdateRequest(requests=changes)
    await _repeat_forever(lambda n: stubs[n].Update(request), 4)


async def largest_updates(address: str) -> None:
    """4 clients that send updates of 1,000 unknown ids of 80 characters."""
    stubs = _stubs(address)
    changes = [pb.TargetChange(instance_id=i, target_state=pb.TARGET_STATE_UP) for i in _ids(1000, 80)]
    request = pb.UpdateRequest(requests=changes)
    await _repeat_forever(lambda n: stubs[n].Update(request), 4)


async def parallel_updates(address: str) -> None:
    """300 updates of 312 kB at once."""
    stubs = _stubs(address)
    ids = [f"{number:04}" + "\U0001f52d" * 75 for number in range(1000)]  # each of these takes four bytes
    changes = [pb.TargetChange(instance_id=i, target_state=pb.TARGET_STATE_UP) for i in ids]
    request = pb.UpdateRequest(requests=changes)
    await _repeat_forever(lambda n: stubs[n % CHANNELS].Update(request), 300)


async def unsent_requests(address: str) -> None:
    """2,000 calls of GetStatus that never send their request."""
    channels: list[Any] = [*_channels(address)]

    async def call(number: int) -> None:
        method = channels[number % CHANNELS].stream_unary("/hostmanager.v1.HostManagerService/GetStatus")
        await method()

    await _repeat_forever(call, 2000)


async def unread_logs(address: str) -> None:
    """1,000 readers of 100,000 lines that read nothing."""
    stubs = _stubs(address)
    request = pb.TailLogsRequest(instance_id="i0000", lines=100_000)
    await _opened([stubs[n % CHANNELS].TailLogs(request) for n in range(1000)])


async def health_watches(address: str) -> None:
    """8,000 health watches."""
    stubs: list[Any] = [health_pb2_grpc.HealthStub(channel) for channel in _channels(address)]
    request = health_pb2.HealthCheckRequest()
    await _opened([stubs[n % CHANNELS].Watch(request) for n in range(8000)])


async def reflections(address: str) -> None:
    """8,000 reflection streams."""
    channels: list[Any] = [*_channels(address)]
    stubs: list[Any] = [reflection_pb2_grpc.ServerReflectionStub(channel) for channel in channels]

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        await asyncio.Event().wait()

    await _opened([stubs[n % CHANNELS].ServerReflectionInfo(requests()) for n in range(8000)])


async def idle_connections(address: str) -> None:
    """1,024 connections without a request."""
    path = address.removeprefix("unix:")
    held = []
    for _ in range(1024):
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(PREFACE)
            held.append((reader, writer))
    await asyncio.Event().wait()


async def reloads(address: str) -> None:
    """2,000 checks of the site config at once."""
    stubs = _stubs(address)
    request = pb.UpdateRequest(reload_config=True, validate_only=True)
    await _repeat_forever(lambda n: stubs[n % CHANNELS].Update(request), 2000)


LOADS: dict[str, Load] = {
    load.__name__.replace("_", "-"): load
    for load in (
        huge_filters, largest_filters, huge_updates, largest_updates, parallel_updates,
        unsent_requests, unread_logs, health_watches, reflections, idle_connections, reloads,
    )
}  # fmt: skip


async def _run_until_eof(load: Load, address: str) -> None:
    closed = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), closed.set)
    print("begun", flush=True)
    work = asyncio.ensure_future(load(address))
    await closed.wait()
    work.cancel()


if __name__ == "__main__":
    asyncio.run(_run_until_eof(LOADS[sys.argv[1]], f"unix:{sys.argv[2]}"))
