"""`hostmanager pull` and `hostmanager orphans` against a fake daemon."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import HostManagerClient, InvalidRequest, ServerBug
from hostmanager_client.cli import pull_bars
from rich.console import Console

from tests.client.cli_runner import TRANSPORTS, command_line, make_runner
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., Result]
Pull = pb.ImagePull


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_TRANSPORT", request.param)
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))

    def invoke(*args: str) -> Result:
        return make_runner().invoke(command_line, args, prog_name="hostmanager", catch_exceptions=False)

    return invoke


def pulling(done: int) -> pb.ImagePull:
    layers = [
        pb.LayerPull(id="aaa", status="Pull complete", current=5, total=5),
        pb.LayerPull(id="bbb", status="Downloading", current=done, total=100),
    ]
    return Pull(image="agent:2", state=Pull.STATE_PULLING, layers=layers, instance_ids=["data1", "data2"])


def a_pull(*, failed: bool = False) -> list[pb.DockerPullResponse]:
    last = Pull(image="agent:2", state=Pull.STATE_PULLED, instance_ids=["data1", "data2"])
    result = pb.PullResult(images=1, pulled=1)
    if failed:
        last.state, last.message = Pull.STATE_FAILED, "no such image"
        result = pb.PullResult(images=1, failed=1)
    return [
        pb.DockerPullResponse(images=[Pull(image="agent:2", state=Pull.STATE_WAITING)], joined=True),
        pb.DockerPullResponse(images=[pulling(10)]),
        pb.DockerPullResponse(),
        pb.DockerPullResponse(images=[pulling(90)]),
        pb.DockerPullResponse(images=[last], result=result),
    ]


def test_pull_prints_each_state_once_and_a_summary(daemon: FakeDaemon, run: Run) -> None:
    daemon.pulls = a_pull()
    result = run("pull")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            "agent:2: waiting",
            "agent:2 (data1, data2): pulling",
            "agent:2 (data1, data2): pulled",
            "1 image: 1 pulled",
        ],
    )
    assert result.stderr == "following the running pull\n"


def test_pull_sends_its_arguments(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    daemon.pulls = a_pull()
    words = ("--new-only", "--detach", "--progress-timeout", "2.5", "--reason", "new camera")
    assert run("pull", "data1", *words).exit_code == 0
    request = daemon.requests[-1]
    assert isinstance(request, pb.DockerPullRequest)
    assert (list(request.instance_ids), request.new_only, request.detach) == (["data1"], True, True)
    assert (request.progress_timeout.ToMilliseconds(), request.reason) == (2500, "new camera")
    assert daemon.callers[-1]["hostmanager-pid"] == str(os.getpid())


def test_pull_exits_1_when_an_image_failed(daemon: FakeDaemon, run: Run) -> None:
    daemon.pulls = a_pull(failed=True)
    result = run("pull")
    assert result.exit_code == 1
    assert "agent:2 (data1, data2): failed: no such image" in result.stdout


def test_pull_as_json_prints_a_line_for_each_message(daemon: FakeDaemon, run: Run) -> None:
    daemon.pulls = a_pull()
    lines = [json.loads(line) for line in run("pull", "--json").stdout.splitlines()]
    assert [line["images"][0]["state"] for line in lines if line["images"]] == [
        "waiting", "pulling", "pulling", "pulled"
    ]  # fmt: skip
    assert [line["result"] is not None for line in lines] == [False] * 4 + [True]


def test_pull_on_a_terminal_shows_bars_and_a_line_for_each_finished_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(pull_bars, "EscapingConsole", lambda: console)
    result = pull_bars.show_bars(a_pull())
    shown = screen.getvalue()
    assert result.pulled == 1
    assert "agent:2  1/2 layers" in shown
    assert "bbb Downloading" in shown
    assert "agent:2 (data1, data2): pulled" in shown


def test_a_refused_pull_prints_the_reason(daemon: FakeDaemon, run: Run) -> None:
    daemon.fail_next = (
        grpc.StatusCode.FAILED_PRECONDITION,
        "no compose file is managed",
        "NO_COMPOSE_FILES",
        [],
    )
    result = run("pull")
    assert (result.exit_code, "no compose file is managed" in result.stderr) == (5, True)


def test_a_stream_without_its_result_is_an_error(daemon: FakeDaemon, socket: Path) -> None:
    daemon.pulls = a_pull()[:-1]
    with HostManagerClient(str(socket)) as client:
        with pytest.raises(ServerBug, match="without a result"):
            list(client.docker_pull())
        with pytest.raises(ServerBug, match="without a result"):
            list(client.remove_orphans())


def test_invalid_arguments_are_refused_without_a_call(daemon: FakeDaemon, socket: Path) -> None:
    with HostManagerClient(str(socket)) as client:
        for wrong in (0.5, 3601.0):
            with pytest.raises(InvalidRequest, match="progress_timeout"):
                client.docker_pull(progress_timeout=wrong)
        with pytest.raises(InvalidRequest, match="stop_timeout"):
            client.remove_orphans(stop_timeout=-1.0)
        with pytest.raises(InvalidRequest, match="list of container ids"):
            client.remove_orphans("abc")
    assert not daemon.requests


def orphan(daemon: FakeDaemon) -> str:
    container_id = "30027f37e0ef4b" + 50 * "0"
    daemon.orphans[container_id] = pb.Orphan(
        container_id=container_id, service="ocs-old", compose_file="/lab/compose.yaml", running=True
    )
    return container_id


def removal(container_id: str, message: str = "") -> pb.RemoveOrphansResponse:
    return pb.RemoveOrphansResponse(
        removal=pb.OrphanRemoval(
            container_id=container_id, service="ocs-old", removed=not message, message=message
        )
    )


def removed(count: int, failed: int = 0) -> pb.RemoveOrphansResponse:
    return pb.RemoveOrphansResponse(result=pb.RemoveOrphansResult(removed=count, failed=failed))


def test_orphans_are_listed(daemon: FakeDaemon, run: Run) -> None:
    assert run("orphans", "list").stdout == "no orphans\n"
    container_id = orphan(daemon)
    assert run("orphans", "list").stdout.splitlines()[3].split() == [
        "30027f37e0ef", "ocs-old", "running", "/lab/compose.yaml"
    ]  # fmt: skip
    (listed,) = json.loads(run("orphans", "list", "--json").stdout)
    assert (listed["container_id"], listed["running"]) == (container_id, True)


def test_running_orphans_come_first_after_a_summary(daemon: FakeDaemon, run: Run) -> None:
    daemon.orphans["b" * 64] = pb.Orphan(container_id="b" * 64, service="ocs-a", exit_code=3)
    orphan(daemon)
    lines = run("orphans", "list").stdout.splitlines()
    assert lines[0] == "1 running · 1 exited"
    assert [line.split()[1] for line in lines[3:]] == ["ocs-old", "ocs-a"]


def test_each_removed_orphan_is_printed(daemon: FakeDaemon, run: Run) -> None:
    container_id = orphan(daemon)
    daemon.orphan_removals = [removal(container_id), removed(1)]
    result = run("orphans", "remove", "30027f", "--stop-timeout", "0")
    assert (result.exit_code, result.stdout) == (0, "30027f37e0ef (ocs-old): removed\n")
    request = daemon.requests[-1]
    assert isinstance(request, pb.RemoveOrphansRequest)
    assert list(request.container_ids) == ["30027f"]
    assert request.HasField("stop_timeout")


def test_an_orphan_that_cannot_be_removed_exits_1(daemon: FakeDaemon, run: Run) -> None:
    daemon.orphan_removals = [removal(orphan(daemon), "the engine says no"), removed(0, 1)]
    result = run("orphans", "remove")
    assert (result.exit_code, result.stderr) == (
        1, "30027f37e0ef (ocs-old): not removed: the engine says no\n"
    )  # fmt: skip


def test_a_host_without_orphans_prints_no_orphans(daemon: FakeDaemon, run: Run) -> None:
    daemon.orphan_removals = [removed(0)]
    assert run("orphans", "remove").stdout == "no orphans\n"
