"""Foreign gRPC clients: grpclib, buf curl with reflection, and health checkers."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from h2.exceptions import StreamClosedError
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.core.spec import RestartPolicy, RestartWhen, Target
from hostmanager_server.rpc.service import SERVICE

from tests.rpc.harness import down, refusal, run, server_harness, spec

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

# Every RPC with a valid request, in an order that works. The tests leave streams after one message.
SPECS = (
    spec("a"), spec("b"), spec("c"),
    replace(spec("job"), initial_target=Target.DOWN, restart=RestartPolicy(RestartWhen.NEVER)),
)  # fmt: skip
CALLS: list[tuple[str, Message]] = [
    ("StartManager", pb.StartManagerRequest(requests=down("b"))),
    ("GetStatus", pb.GetStatusRequest()),
    ("ListInstances", pb.ListInstancesRequest(page_size=2)),
    ("GetInstance", pb.GetInstanceRequest(instance_id="a")),
    ("WatchStatus", pb.WatchStatusRequest()),
    ("Signal", pb.SignalRequest(instance_id="a", signal="HUP")),
    ("Hold", pb.HoldRequest(instance_ids=["c"])),
    ("Release", pb.ReleaseRequest(instance_ids=["c"])),
    ("Run", pb.RunRequest(instance="job")),
    ("Update", pb.UpdateRequest(requests=down("c"))),
    ("Restart", pb.RestartRequest(instance_ids=["a"])),
    ("TailLogs", pb.TailLogsRequest(instance_id="a")),
    ("ListEvents", pb.ListEventsRequest()),
    ("WatchEvents", pb.WatchEventsRequest(resume_token="e0.0")),
    ("Explain", pb.ExplainRequest()),
    ("GetUsage", pb.GetUsageRequest()),
    ("WatchUsage", pb.WatchUsageRequest()),
    ("DockerPull", pb.DockerPullRequest()),
    ("RemoveOrphans", pb.RemoveOrphansRequest()),
    ("StopManager", pb.StopManagerRequest()),
    ("Upgrade", pb.UpgradeRequest()),
    ("Die", pb.DieRequest()),
]


def test_the_list_of_calls_is_complete() -> None:
    assert {name for name, _ in CALLS} == {method.name for method in SERVICE.methods}


async def test_grpclib_calls_every_rpc(tmp_path: Path) -> None:
    async with (
        server_harness(tmp_path, SPECS, started=False) as h,
        Channel(path=h.address.removeprefix("unix:")) as channel,
    ):
        for name, request in CALLS:
            path = f"/{SERVICE.full_name}/{name}"
            answer = getattr(pb, f"{name}Response")
            if SERVICE.methods_by_name[name].server_streaming:
                streaming = UnaryStreamMethod(channel, path, type(request), answer)
                async with streaming.open() as stream:
                    await stream.send_message(request, end=True)
                    message = await stream.recv_message()
                    assert message is not None, name
                    with suppress(StreamClosedError):  # the stream may have ended already
                        await stream.cancel()
            else:
                message = await UnaryUnaryMethod(channel, path, type(request), answer)(request)
            assert isinstance(message, answer), name
        assert h.died == [frozenset()]


async def test_buf_curl_calls_every_rpc_with_reflection_alone(tmp_path: Path) -> None:
    async with server_harness(tmp_path, SPECS, started=False) as h:
        for name, request in CALLS:
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("buf")), "curl", "--protocol", "grpc",
                "--http2-prior-knowledge", "--unix-socket", h.address.removeprefix("unix:"),
                "--data", json.dumps(MessageToDict(request)), f"http://localhost/{SERVICE.full_name}/{name}",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=tmp_path,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stderr is not None
            if name.startswith("Watch") or name == "Run":  # goes on
                line = await process.stdout.readline()
                process.terminate()
                await process.communicate()
                assert line.startswith(b"{"), name
            else:
                out, err = await process.communicate()
                assert process.returncode == 0, (name, err)
                assert out.startswith(b"{"), name
        assert h.died == [frozenset()]


async def test_health_is_checked_and_watched(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        health: Any = health_pb2_grpc.HealthStub(h.channel())
        for name in ("", SERVICE.full_name):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE.full_name))
        assert (await watch.read()).status == SERVING
        await h.server.set_serving(serving=False)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def reflected(channel: grpc.aio.Channel, version: str) -> set[str]:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await anext(aiter(call))
    return {service.name for service in answer.list_services_response.service}


def test_reflection_works_on_the_socket_and_over_tcp_only_with_the_flag(tmp_path: Path) -> None:
    async def play(*, flag: bool) -> None:
        async with server_harness(tmp_path, tcp=True, tcp_reflection=flag) as h:
            for version in ("v1", "v1alpha"):
                assert SERVICE.full_name in await reflected(h.channel(), version)
                over_tcp = reflected(h.channel(h.addresses[1]), version)
                if flag:
                    assert SERVICE.full_name in await over_tcp
                    continue
                with pytest.raises(grpc.aio.AioRpcError, match="--reflection") as caught:
                    await over_tcp
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                assert refusal(caught.value).reason == "REFLECTION_OFF"

    run(play(flag=False))
    run(play(flag=True))
