"""Refused requests: the status, the reason and the bad fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client.aio import AsyncHostManagerClient
from hostmanager_client.errors import LimitExceeded
from hostmanager_server.core.spec import HostSpec, InstanceSpec, Target
from hostmanager_server.rpc.service import SERVICE
from hostmanager_server.rpc.status import StatusRpcs

from tests.in_memory import MemoryConfig
from tests.rpc.harness import down, refused, run, server_harness, spec, until, up

CODE = grpc.StatusCode


REFUSALS = [
    ("Update", pb.UpdateRequest(), "INVALID_ARGUMENT", {"requests"}),
    ("Update",
     pb.UpdateRequest(requests=[pb.TargetChange(instance_id="a", target_state=pb.TARGET_STATE_PASSIVE)]),
     "INVALID_ARGUMENT", {"requests[0].target_state"}),
    ("Restart", pb.RestartRequest(), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Restart", pb.RestartRequest(instance_ids=["a"], all=True), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Restart", pb.RestartRequest(instance_ids=["a", "x"]), "NOT_FOUND", {"instance_ids[1]"}),
    ("Restart", pb.RestartRequest(instance_ids=["a", "lazy"]), "INVALID_ARGUMENT", {"instance_ids[1]"}),
    ("Restart", pb.RestartRequest(instance_ids=["x", "broken"]), "INVALID_ARGUMENT",
     {"instance_ids[0]", "instance_ids[1]"}),
    ("Hold", pb.HoldRequest(reason="x"), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Hold", pb.HoldRequest(instance_ids=["a", "x"]), "NOT_FOUND", {"instance_ids[1]"}),
    ("Hold", pb.HoldRequest(instance_ids=["a"], duration=Duration(nanos=1)), "INVALID_ARGUMENT",
     {"duration"}),
    ("Hold", pb.HoldRequest(instance_ids=["a"], reason="x" * 201), "INVALID_ARGUMENT", {"reason"}),
    ("Hold", pb.HoldRequest(instance_ids=["a"], reason="two\nlines"), "INVALID_ARGUMENT", {"reason"}),
    ("Release", pb.ReleaseRequest(), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Release", pb.ReleaseRequest(instance_ids=["a"], all=True), "INVALID_ARGUMENT", {"instance_ids"}),
    ("Release", pb.ReleaseRequest(instance_ids=["x"]), "NOT_FOUND", {"instance_ids[0]"}),
    ("Run", pb.RunRequest(), "INVALID_ARGUMENT", {"instance"}),
    ("Run", pb.RunRequest(instance="x"), "NOT_FOUND", {"instance"}),
    ("Run", pb.RunRequest(instance="a"), "INVALID_ARGUMENT", {"instance"}),
    ("Run", pb.RunRequest(instance="a", arguments=["x"] * 101), "INVALID_ARGUMENT", {"arguments"}),
    ("Run", pb.RunRequest(instance="a", arguments=["x", "\0"]), "INVALID_ARGUMENT", {"arguments[1]"}),
    ("GetInstance", pb.GetInstanceRequest(), "INVALID_ARGUMENT", {"instance_id"}),
    ("GetInstance", pb.GetInstanceRequest(instance_id="x"), "NOT_FOUND", {"instance_id"}),
    ("ListInstances", pb.ListInstancesRequest(instance_ids=["a", "x"]), "NOT_FOUND", {"instance_ids[1]"}),
    ("ListInstances", pb.ListInstancesRequest(page_size=1001), "INVALID_ARGUMENT", {"page_size"}),
    ("ListInstances", pb.ListInstancesRequest(page_token="?"), "INVALID_ARGUMENT", {"page_token"}),
    ("ListEvents", pb.ListEventsRequest(page_size=-1), "INVALID_ARGUMENT", {"page_size"}),
    ("ListEvents", pb.ListEventsRequest(newest=-1), "INVALID_ARGUMENT", {"newest"}),
    ("ListEvents", pb.ListEventsRequest(page_token="?"), "INVALID_ARGUMENT", {"page_token"}),
    ("ListEvents", pb.ListEventsRequest(page_token="older.1"), "INVALID_ARGUMENT", {"page_token"}),
    ("WatchStatus", pb.WatchStatusRequest(resume_token="garbage"), "INVALID_ARGUMENT", {"resume_token"}),
    ("WatchStatus", pb.WatchStatusRequest(resume_token="e0.-1"), "INVALID_ARGUMENT", {"resume_token"}),
    ("WatchStatus", pb.WatchStatusRequest(heartbeat_interval=Duration(nanos=1)), "INVALID_ARGUMENT",
     {"heartbeat_interval"}),
    ("WatchEvents", pb.WatchEventsRequest(resume_token="garbage"), "INVALID_ARGUMENT", {"resume_token"}),
    ("WatchEvents", pb.WatchEventsRequest(heartbeat_interval=Duration(seconds=3601)), "INVALID_ARGUMENT",
     {"heartbeat_interval"}),
    ("TailLogs", pb.TailLogsRequest(), "INVALID_ARGUMENT", {"instance_id"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="x"), "NOT_FOUND", {"instance_id"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", lines=-1), "INVALID_ARGUMENT", {"lines"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", follow=True, until=Timestamp(seconds=9)),
     "INVALID_ARGUMENT", {"until"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", follow=True, previous=True), "INVALID_ARGUMENT",
     {"previous"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", since=Timestamp(seconds=9), until=Timestamp(seconds=8)),
     "INVALID_ARGUMENT", {"until"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", since=Timestamp(seconds=-1)), "INVALID_ARGUMENT",
     {"since"}),
    ("TailLogs", pb.TailLogsRequest(instance_id="a", until=Timestamp(nanos=-1)), "INVALID_ARGUMENT",
     {"until"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Duration(nanos=999_999_900), "must be 1 s to 3600 s, not 0.9999999 s"),
        (Duration(seconds=3600, nanos=1), "must be 1 s to 3600 s, not 3600.000000001 s"),
        (Duration(seconds=-1), "not -1 s"),
        (Duration(nanos=-1), "not -0.000000001 s"),
        (Duration(seconds=2**62), f"not {2**62} s"),
        (Duration(seconds=2, nanos=-5), "2 s with -5 nanos is no duration"),
        (Duration(seconds=-2, nanos=5), "-2 s with 5 nanos is no duration"),
        (Duration(seconds=2, nanos=10**9), "is no duration: nanos go from -999999999 to 999999999"),
    ],
)
def test_a_duration_out_of_range_is_quoted_to_its_last_digit(
    tmp_path: Path, given: Duration, expected: str
) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            stub = h.stub()
            calls: dict[str, Any] = {
                "heartbeat_interval": stub.WatchStatus(pb.WatchStatusRequest(heartbeat_interval=given)),
                "progress_timeout": stub.DockerPull(pb.DockerPullRequest(progress_timeout=given)),
            }
            for field, call in calls.items():
                error = await refused(call.read())
                assert (error.code, error.message) == (CODE.INVALID_ARGUMENT, error.violations[field])
                assert error.message.startswith(f"{field} must be 1 s to 3600 s")
                assert expected in error.message

    run(play())


NO_MESSAGES = {
    "cut off": b"\x0a\x7f",
    "wrong wire type": b"\x0f",
    "endless group": b"\x0b" * 200,
}


@pytest.mark.parametrize("data", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_bytes_that_are_no_message_are_an_invalid_argument_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    async def play() -> None:
        async with server_harness(tmp_path) as h:
            channel: Any = h.channel()
            for method in SERVICE.methods:
                call = channel.unary_stream if method.server_streaming else channel.unary_unary
                answer = call(f"/{SERVICE.full_name}/{method.name}")(data)
                error = await refused(answer.read() if method.server_streaming else answer)
                assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST"), method.name
                assert method.input_type.full_name in error.message
            for name in ("Check", "Watch"):
                answer = channel.unary_stream(f"/grpc.health.v1.Health/{name}")(data)
                assert (await refused(answer.read())).code is CODE.INVALID_ARGUMENT, name
            for version in ("v1", "v1alpha"):
                name = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
                answer = channel.stream_stream(name)(iter([data]))
                error = await refused(answer.read())
                assert error.code is CODE.INVALID_ARGUMENT
                assert f" grpc.reflection.{version}.ServerReflectionRequest " in error.message
            answer = channel.unary_unary(f"/{SERVICE.full_name}/GetInstance")(b"\x0a\x01\xff")
            assert (await refused(answer)).code is CODE.INVALID_ARGUMENT, "an id that is no UTF-8"
            await h.stub().GetStatus(pb.GetStatusRequest())

    run(play())
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_health_check_of_an_unknown_service_says_so(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        health: Any = health_pb2_grpc.HealthStub(h.channel())
        error = await refused(health.Check(health_pb2.HealthCheckRequest(service="x.Y")))
        assert (error.code, error.reason) == (CODE.NOT_FOUND, "UNKNOWN_SERVICE")
        assert "'x.Y'" in error.message
        assert SERVICE.full_name in error.message
        for call in (health.Check, lambda request: health.Watch(request).read()):
            error = await refused(call(health_pb2.HealthCheckRequest(service="x" * 100_000)))
            assert (error.code, set(error.violations)) == (CODE.INVALID_ARGUMENT, {"service"})


async def test_a_request_above_the_limit_of_the_daemon_is_explained_by_the_client(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h, AsyncHostManagerClient(h.address) as client:
        with pytest.raises(LimitExceeded, match="refused the request: the request is larger") as caught:
            await client.get_instance("x" * 500_000)
        assert "cannot reach" not in str(caught.value)


async def test_a_bad_request_is_refused_with_the_bad_field(tmp_path: Path) -> None:
    broken = InstanceSpec("broken", "Agent", problem="it has no command")
    async with server_harness(tmp_path, [spec("a"), spec("lazy", target=Target.DOWN)]) as h:
        h.config = MemoryConfig(HostSpec("host", (spec("a"), spec("lazy", target=Target.DOWN), broken)))
        stub = h.stub()
        await stub.Update(pb.UpdateRequest(reload_config=True))
        for name, request, code, fields in REFUSALS:
            call = getattr(stub, name)(request)
            error = await refused(call if hasattr(call, "__await__") else anext(aiter(call)))
            assert (error.code.name, set(error.violations)) == (code, fields), (name, request)
            assert error.domain == "hostmanager"


async def test_the_manager_is_refused_what_its_state_does_not_allow(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        stub = h.stub()
        error = await refused(stub.StartManager(pb.StartManagerRequest()))
        assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "MANAGER_RUNNING")
        stopped = await stub.StopManager(pb.StopManagerRequest())
        assert not h.host.runs, "StopManager returns when everything is down"
        assert (await stub.StopManager(pb.StopManagerRequest())).revision >= stopped.revision
        for call in (
            stub.Update(pb.UpdateRequest(requests=up("a"))),
            stub.Restart(pb.RestartRequest(all=True)),
        ):
            error = await refused(call)
            assert (error.code, error.reason) == (CODE.FAILED_PRECONDITION, "MANAGER_STOPPED")
            assert error.metadata == {"manager_state": "stopped"}
        await stub.StartManager(pb.StartManagerRequest(requests=down("b")))
        await until(lambda: len(h.host.runs) == 2)
        assert h.host.run_of("b") is None


def test_the_text_of_a_bug_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: StatusRpcs, request: pb.GetStatusRequest) -> pb.GetStatusResponse:
        raise ValueError("a secret")

    monkeypatch.setattr(StatusRpcs, "get_status", broken)

    async def play() -> None:
        async with server_harness(tmp_path) as h:
            error = await refused(h.stub().GetStatus(pb.GetStatusRequest()))
            assert (error.code, error.reason) == (CODE.INTERNAL, "INTERNAL")
            assert "secret" not in error.message

    run(play())


async def test_a_request_beyond_the_size_limit_is_refused(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await h.stub().GetInstance(pb.GetInstanceRequest(instance_id="x" * 1_100_000))
        assert caught.value.code() is CODE.RESOURCE_EXHAUSTED


async def test_every_bad_entry_is_reported(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        changes = [
            pb.TargetChange(instance_id="nosuch", target_state=pb.TARGET_STATE_UP),
            pb.TargetChange(instance_id="a"),
            pb.TargetChange(target_state=pb.TARGET_STATE_UP),
        ]
        error = await refused(h.stub().Update(pb.UpdateRequest(requests=changes)))
        assert error.code is CODE.INVALID_ARGUMENT
        assert list(error.violations) == [
            "requests[0].instance_id", "requests[1].target_state", "requests[2].instance_id"
        ]  # fmt: skip


async def test_a_bad_id_of_a_restart_has_its_own_index(tmp_path: Path) -> None:
    async with server_harness(tmp_path) as h:
        error = await refused(h.stub().Restart(pb.RestartRequest(instance_ids=["a", "a", "nosuch"])))
        assert list(error.violations) == ["instance_ids[2]"]
