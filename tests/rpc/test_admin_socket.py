"""The socket reserved for admins: names, permissions, and room when clients are at their limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc
from hostmanager_client.address import parse_address
from hostmanager_client.admin_socket import address_with_capacity, admin_address
from hostmanager_server.rpc.limits import Limit, Limits
from hostmanager_server.rpc.listen import parse_listen

from tests.rpc.harness import (
    PATIENCE,
    server_harness,
    up,
)

CODE = grpc.StatusCode


async def test_a_client_at_every_limit_leaves_room_for_admins(tmp_path: Path) -> None:
    limits = Limits(connections=2, watchers=3, watchers_per_client=3, log_streams=Limit(1, 1))

    async with server_harness(tmp_path, limits=limits) as h:
        held = [h.stub() for _ in range(2)]
        for stub in held:
            await stub.GetStatus(pb.GetStatusRequest())
        streams: list[Any] = [held[0].WatchStatus(pb.WatchStatusRequest()) for _ in range(3)]
        for stream in streams:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await h.stub().GetStatus(pb.GetStatusRequest())
        assert caught.value.code() is CODE.UNAVAILABLE
        channel = h.channel(f"{h.address}-admin")
        health: Any = health_pb2_grpc.HealthStub(channel)
        admin = pb_grpc.HostManagerServiceStub(channel)
        assert (await admin.GetStatus(pb.GetStatusRequest())).child_states
        await admin.Update(pb.UpdateRequest(requests=up("a")))
        assert await admin.WatchStatus(pb.WatchStatusRequest()).read()
        assert await admin.TailLogs(pb.TailLogsRequest(instance_id="a")).read()
        assert await health.Watch(health_pb2.HealthCheckRequest()).read()


async def test_the_command_line_goes_to_the_admins_socket_when_the_other_is_full(tmp_path: Path) -> None:
    async with server_harness(tmp_path, limits=Limits(connections=1)) as h:
        address = parse_address(h.address)
        await h.stub().GetStatus(pb.GetStatusRequest())
        found = await asyncio.to_thread(address_with_capacity, address)
        assert str(found) == f"{h.address}-admin"
        await h.channels[0].close()

        async def first_has_room() -> bool:
            return await asyncio.to_thread(address_with_capacity, address) == address

        async with asyncio.timeout(PATIENCE):
            while not await first_has_room():  # noqa: ASYNC110  # a socket has no event for free connections
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["hostmanager.sock", "lab.sock", "s", "my.hostmanager.sock", ".sock"])
def test_server_and_client_agree_on_the_name_of_the_admins_socket(tmp_path: Path, name: str) -> None:
    listen = parse_listen(f"unix:{tmp_path}/{name}", insecure=False).for_admins()
    found = admin_address(parse_address(f"{tmp_path}/{name}"))
    assert listen is not None
    assert found is not None
    assert listen.text == str(found)
    assert listen.socket != tmp_path / name


def test_a_path_too_long_for_an_admin_socket_has_none(tmp_path: Path) -> None:
    path = f"/{'x' * 106}"
    assert parse_listen(path, insecure=False).for_admins() is None
    assert admin_address(parse_address(path)) is None


async def test_the_admins_socket_belongs_to_the_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        socket = tmp_path / "s-admin"
        assert socket.stat().st_mode & 0o777 == 0o600
        await h.server.stop()
        assert not socket.exists()
