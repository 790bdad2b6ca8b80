"""`hostmanager why`: what it prints, and its exit codes, over both transports."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb

from tests.client.cli_runner import TRANSPORTS, command_line, make_runner
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_TRANSPORT", request.param)
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))
    return lambda *args: make_runner().invoke(command_line, args, prog_name="hostmanager")


def ago(seconds: float) -> Timestamp:
    return Timestamp(seconds=int(time.time() - seconds))


def crash_loop(daemon: FakeDaemon, instance_id: str = "heater") -> pb.Explanation:
    """Add an instance in a crash loop that began 10 min ago, with its explanation."""
    instance = daemon.add(
        instance_id,
        next_action=pb.NEXT_ACTION_START_AT,
        reason="BackingOff",
        message="last exit: code 3; waiting to restart (attempt 5)",
        consecutive_failures=4,
    )
    instance.ClearField("start_time")
    instance.last_exit.code = 3
    instance.last_exit.time.CopyFrom(ago(2))
    instance.at.CopyFrom(ago(-310))
    instance.target_origin.kind = pb.ChangeOrigin.KIND_CALL
    instance.target_origin.requester.user = "ada"
    instance.target_origin.reason = "first light"
    daemon.publish(instance)
    end = pb.Event(time=ago(2), reason="Exited", message="ended with code 3", instance_id=instance_id)
    end.exit.last_output = "warming up\ncannot open /dev/ttyUSB1"
    worked = pb.WorkingRun(start_time=ago(7810), end_time=ago(610))
    change = pb.Event(time=ago(611), reason="Changed", message="--port: 0 -> 1", instance_id=instance_id)
    change.origin.kind = pb.ChangeOrigin.KIND_SIGNAL
    change.origin.detail = "SIGHUP"
    explanation = pb.Explanation(
        instance=instance,
        since=ago(610),
        ends=[end],
        more_ends=3,
        last_worked=worked,
        changes=[change],
        needed_by=["camera", "archive"],
        hints=["correct the cause", "`hostmanager logs heater -n 50` shows what it wrote"],
    )
    daemon.explanations.append(explanation)
    return explanation


def test_a_host_in_order_says_so(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    result = run("why")
    assert (result.exit_code, result.stdout) == (0, "1 instance is as wanted\n")


def test_one_screen_tells_the_whole_story(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    crash_loop(daemon)
    result = run("why")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("heater: start_at instead of up for 10 min: code 3, ")
    assert "restarting in 5 min (attempt 5)" in lines[0]
    labels = [line[2:13].strip() for line in lines[1:-2]]
    assert labels == ["target by", "ended", "", "worked", "changes", "needed by", "try", ""]
    assert lines[1].endswith('a client, says it is ada: "first light"')
    assert lines[2].endswith('ended with code 3: "cannot open /dev/ttyUSB1"')
    assert lines[3].endswith("and 3 more")
    assert lines[4].endswith("until 10 min ago, for 2 h")
    assert lines[5].endswith("Changed: --port: 0 -> 1 [signal SIGHUP]")
    assert lines[6].endswith("camera, archive")
    assert lines[-2:] == ["", "1 instance is as wanted"]


def test_many_troubles_still_fit_on_one_screen(daemon: FakeDaemon, run: Run) -> None:
    for number in range(30):
        crash_loop(daemon, f"heater{number}")
    result = run("why")
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    assert lines[1] == "  try        correct the cause"
    assert lines[-4].startswith("and 20 more: heater10, heater11")
    assert "`hostmanager why ID` explains one of them" in lines


def test_a_named_instance_is_explained_in_full(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    fine = pb.Explanation(instance=daemon.instances["data1"], as_wanted=True)
    fine.last_worked.start_time.CopyFrom(ago(7200))
    daemon.explanations = [fine]
    result = run("why", "data1")
    assert result.exit_code == 0
    assert result.stdout == "data1: up, as wanted: running\n  worked     since 2 h ago\n"
    assert daemon.requests[-1] == pb.ExplainRequest(instance_ids=["data1"])


def test_an_unknown_instance_gets_a_suggestion(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    result = run("why", "data2")
    assert result.exit_code == 4
    assert "did you mean 'data1'?" in result.stderr


def test_a_manager_in_trouble_is_told_first(daemon: FakeDaemon, run: Run) -> None:
    daemon.manager_state = pb.MANAGER_STATE_STOPPED
    result = run("why")
    assert result.exit_code == 1
    assert result.stdout.startswith("manager stopped")


def test_why_as_json_is_the_answer_of_the_daemon(daemon: FakeDaemon, run: Run) -> None:
    explanation = crash_loop(daemon)
    result = run("why", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    (one,) = document["explanations"]
    assert one["hints"] == list(explanation.hints)
    assert one["ends"][0]["exit"]["last_output"] == "warming up\ncannot open /dev/ttyUSB1"
    assert (document["as_wanted"], one["as_wanted"]) == (0, False)


def test_hostile_texts_cannot_reach_a_terminal(daemon: FakeDaemon, run: Run) -> None:
    explanation = crash_loop(daemon)
    explanation.hints[:] = ["\x1b[2Jgone"]
    explanation.ends[0].message = "\x1b]0;title\x07"
    output = run("why").stdout
    assert "\x1b[2J" not in output
    assert "\x07" not in output
