"""Foreign gRPC clients: `buf curl`, with server reflection only, and grpclib."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from h2.exceptions import StreamClosedError
from hostmanager.v1 import host_manager_pb2 as pb

from tests.docker_engine import MakeProject
from tests.e2e.daemon import PATIENCE, Daemon, Site
from tests.waiting import wait_until

SERVICE = pb.DESCRIPTOR.services_by_name["HostManagerService"]
BUF = Path(sys.executable).with_name("buf")

# Every method of the contract, in an order in which each call succeeds; Die ends the daemon.
CALLS: list[tuple[str, Message]] = [
    ("GetStatus", pb.GetStatusRequest()),
    ("ListInstances", pb.ListInstancesRequest(page_size=1)),
    ("GetInstance", pb.GetInstanceRequest(instance_id="data1")),
    (
        "Update",
        pb.UpdateRequest(requests=[pb.TargetChange(instance_id="data1", target_state=pb.TARGET_STATE_UP)]),
    ),
    ("Signal", pb.SignalRequest(instance_id="data1", signal="CONT")),
    ("Restart", pb.RestartRequest(instance_ids=["data1"])),
    ("Run", pb.RunRequest(instance="job")),
    ("Hold", pb.HoldRequest(instance_ids=["data1"])),
    ("Release", pb.ReleaseRequest(all=True)),
    ("GetUsage", pb.GetUsageRequest()),
    ("WatchUsage", pb.WatchUsageRequest()),
    ("TailLogs", pb.TailLogsRequest(instance_id="data1", lines=1)),
    ("ListEvents", pb.ListEventsRequest(page_size=5)),
    ("Explain", pb.ExplainRequest()),
    ("WatchStatus", pb.WatchStatusRequest()),
    ("WatchEvents", pb.WatchEventsRequest()),
    ("DockerPull", pb.DockerPullRequest()),
    ("RemoveOrphans", pb.RemoveOrphansRequest()),
    ("StopManager", pb.StopManagerRequest()),
    ("StartManager", pb.StartManagerRequest()),
    ("Upgrade", pb.UpgradeRequest(validate_only=True)),
    ("Die", pb.DieRequest()),
]


@pytest.fixture
def daemon(site: Site, compose_project: MakeProject, image: str) -> Daemon:
    service = {"image": image, "network_mode": "none", "pull_policy": "never"}
    project = compose_project(json.dumps({"services": {"idle": service}}))
    job = {"instance-id": "job", "command": ["echo", "done"], "restart": "never", "manage": "down"}
    site.write([{"instance-id": "data1", "command": ["sh", "-c", "echo ready; exec sleep 100000"]}, job])
    daemon = site.start("--docker-compose", str(project.file))
    daemon.wait_for("data1", pb.NEXT_ACTION_UP)
    log = Path(daemon.instance("data1").process.log_file)
    wait_until(lambda: log.read_bytes() == b"ready\n", "the agent's first line")
    return daemon


def test_the_calls_are_those_of_the_contract() -> None:
    assert {name for name, _ in CALLS} == {method.name for method in SERVICE.methods}


class BufCurl:
    """Calls through `buf curl`, a process per call.

    The calls use the daemon's reflection instead of a proto file.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._socket = daemon.site.socket

    def start(self, method: str, request: dict[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge",
                "--unix-socket", self._socket, "--data", json.dumps(request),
                f"http://localhost/{SERVICE.full_name}/{method}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def call(self, method: str, request: dict[str, Any]) -> tuple[int, str, str]:
        process = self.start(method, request)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


def test_buf_curl_calls_everything_by_reflection_alone(daemon: Daemon) -> None:
    buf = BufCurl(daemon)
    requests: dict[str, dict[str, Any]] = {
        "ListInstances": {"page_size": 1},
        "GetInstance": {"instance_id": "data1"},
        "Update": {"requests": [{"instance_id": "data1", "target_state": "TARGET_STATE_UP"}]},
        "Restart": {"instance_ids": ["data1"]},
        "Signal": {"instance_id": "data1", "signal": "CONT"},
        "Run": {"instance": "job"},
        "Hold": {"instance_ids": ["data1"]},
        "Release": {"all": True},
        "TailLogs": {"instance_id": "data1", "lines": 1},
        "Upgrade": {"validate_only": True},
    }
    for method, _ in CALLS:
        if method.startswith("Watch"):
            stream = buf.start(method, {} if method == "WatchUsage" else {"heartbeat_interval": "1s"})
            assert stream.stdout is not None
            with stream:
                assert stream.stdout.readline().startswith("{")
                stream.terminate()
            continue
        code, out, err = buf.call(method, requests.get(method, {}))
        assert code == 0, f"{method}: {err}"
        json.JSONDecoder().raw_decode(out)
    assert daemon.process.wait(PATIENCE) == 0


def test_buf_curl_shows_what_is_wrong_with_a_request(daemon: Daemon) -> None:
    code, _, err = BufCurl(daemon).call("GetInstance", {"instance_id": "nosuch"})
    assert code != 0
    assert "nosuch" in err
    assert "google.rpc.ErrorInfo" in err


async def _call_everything(socket: Path) -> dict[str, Message]:
    answers: dict[str, Message] = {}
    channel = Channel(path=str(socket))
    try:
        for name, request in CALLS:
            method = SERVICE.methods_by_name[name]
            response_type: type[Message] = getattr(pb, method.output_type.name)
            path = f"/{SERVICE.full_name}/{name}"
            if method.server_streaming:
                stream_method = UnaryStreamMethod(channel, path, type(request), response_type)
                async with stream_method.open() as stream:
                    await stream.send_message(request, end=True)
                    if name == "WatchEvents":  # no message without an event
                        update = UnaryUnaryMethod(
                            channel, f"/{SERVICE.full_name}/Restart", pb.RestartRequest, pb.RestartResponse
                        )
                        await update(pb.RestartRequest(all=True))
                    first = await stream.recv_message()
                    assert first is not None
                    answers[name] = first
                    with suppress(StreamClosedError):  # the daemon may end the stream first
                        await stream.cancel()
            else:
                call = UnaryUnaryMethod(channel, path, type(request), response_type)
                answers[name] = await call(request, timeout=PATIENCE)
    finally:
        channel.close()
    return answers


def test_grpclib_calls_everything(daemon: Daemon) -> None:
    answers = asyncio.run(_call_everything(daemon.site.socket))
    assert set(answers) == {name for name, _ in CALLS}
    status, watched, logs = answers["GetStatus"], answers["WatchStatus"], answers["TailLogs"]
    assert isinstance(status, pb.GetStatusResponse)
    assert [child.instance_id for child in status.child_states] == ["data1", "idle", "job"]
    assert isinstance(watched, pb.WatchStatusResponse)
    assert watched.snapshot.reason == pb.StatusSnapshot.REASON_INITIAL
    assert isinstance(logs, pb.TailLogsResponse)
    assert [line.text for line in logs.lines] == ["ready"]
    assert daemon.process.wait(PATIENCE) == 0


def test_grpclib_gets_the_status_of_a_refusal(daemon: Daemon) -> None:
    async def ask() -> None:
        channel = Channel(path=str(daemon.site.socket))
        path = f"/{SERVICE.full_name}/GetInstance"
        call = UnaryUnaryMethod(channel, path, pb.GetInstanceRequest, pb.GetInstanceResponse)
        try:
            await call(pb.GetInstanceRequest(instance_id="nosuch"))
        finally:
            channel.close()

    with pytest.raises(GRPCError) as failure:
        asyncio.run(ask())
    assert failure.value.status.name == "NOT_FOUND"
    assert "nosuch" in str(failure.value.message)
