"""Output and exit codes of the command line, against a fake daemon."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import DOWN, UP
from hostmanager_client.cli.app import COMMANDS
from hostmanager_client.cli.origins import origin_words

from tests.client.cli_runner import TRANSPORTS, command_line, make_runner
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture(params=TRANSPORTS)
def run(request: pytest.FixtureRequest, socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_TRANSPORT", request.param)
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))

    def invoke(*args: str) -> Result:
        return make_runner().invoke(command_line, args, prog_name="hostmanager", catch_exceptions=False)

    return invoke


def crashed(daemon: FakeDaemon, instance_id: str = "data2") -> None:
    """Add an instance that ended 2 s ago and restarts in 5 minutes."""
    instance = daemon.add(
        instance_id,
        next_action=pb.NEXT_ACTION_START_AT,
        reason="BackingOff",
        message="last exit: code 3; waiting to restart (attempt 5)",
        consecutive_failures=4,
        restart_count=4,
    )
    instance.ClearField("start_time")
    instance.process.pid = 0
    instance.at.GetCurrentTime()
    instance.last_exit.time.CopyFrom(instance.at)
    instance.fail_times.add().CopyFrom(instance.at)
    instance.fail_times[0].seconds -= 20
    instance.last_exit.time.seconds -= 2
    instance.at.seconds += 300
    instance.last_exit.code = 3
    daemon.publish(instance)


def test_a_signal_goes_to_the_main_process_or_the_tree(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    assert run("signal", "data1", "HUP").output == "data1: sent HUP to the main process\n"
    assert run("signal", "data1", "RTMIN+3", "--tree").output == "data1: sent RTMIN+3 to every process\n"
    assert daemon.signals == [("data1", "HUP", False), ("data1", "RTMIN+3", True)]
    answer = json.loads(run("signal", "data1", "USR1", "--json").output)
    assert set(answer) == {"revision", "epoch"}


def test_a_signal_that_cannot_be_sent_is_an_error(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_DOWN)
    refused = run("signal", "data1", "HUP")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert "nothing of it runs" in refused.stderr
    unknown = run("signal", "data", "HUP")
    assert unknown.exit_code == 4
    assert "data1" in unknown.stderr
    assert "HUP" not in unknown.stderr
    assert run("signal", "data1").exit_code == 2


def test_status_shows_states_and_reasons(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    crashed(daemon)
    daemon.change("data1", restart_required=True)
    result = run("status")
    assert result.exit_code == 0
    summary, manager, _, header, data2, data1 = result.output.splitlines()
    assert summary == "1 up · 1 failing"
    assert manager.startswith("manager running, host daq1, hostmanager 0.1.0, pid 4242, up ")
    assert header.split() == [
        "INSTANCE", "CLASS", "TARGET", "STATE", "SINCE", "PID", "RESTARTS", "STABILITY", "MESSAGE"
    ]  # fmt: skip
    assert data1.split()[:4] == ["data1", "FakeData", "up", "up"]
    assert data1.endswith("restart required")
    assert re.search(r" code 3, ([2-9]\.\d|\d\d) s ago; restarting in 5 min \(attempt 5\)$", data2)
    assert "0.7" in data2, "the stability follows from the failure times: 1 - 5/20"


def test_status_shows_problems_of_the_config(daemon: FakeDaemon, run: Run) -> None:
    problem = pb.ConfigProblem(
        severity=pb.SEVERITY_ERROR, file="site.yaml", line=3, column=5, message="bad manage"
    )
    daemon.problems.append(problem)
    assert "config error: site.yaml:3:5: bad manage" in run("status").output


def test_status_lists_trouble_first_and_then_the_order_of_the_site_config(
    daemon: FakeDaemon, run: Run
) -> None:
    for position, instance_id in enumerate(("zeta", "alpha", "beta"), 1):
        daemon.add(instance_id, position=position)
    daemon.add("no-entry")
    crashed(daemon)
    for args in (("status",), ("status", "--wide")):
        lines = run(*args).output.splitlines()
        assert lines[0] == "4 up · 1 failing"
        assert [line.split()[0] for line in lines[4:]] == ["data2", "zeta", "alpha", "beta", "no-entry"]


def test_status_of_some_shows_only_those(daemon: FakeDaemon, run: Run) -> None:
    for n in range(3):
        daemon.add(f"data{n}")
    output = run("status", "data2", "data0").output
    assert "data0" in output
    assert "data1" not in output


def test_status_as_json_has_the_contract_s_names_and_ocs_words(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    for args in (["--json", "status"], ["status", "--json"]):
        document = json.loads(run(*args).output)
        assert list(document) == ["revision", "time", "manager", "instances", "resume_token"]
        assert document["manager"]["state"] == "running"
        (instance,) = document["instances"]
        assert instance["next_action"] == "up"
        assert instance["process"]["pid"] == 4000


def test_the_address_may_stand_on_either_side_of_the_command(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", "/nowhere/at/all.sock")
    assert run("--address", str(daemon.socket), "status").exit_code == 0
    assert run("status", "-a", f"unix:{daemon.socket}").exit_code == 0
    assert run("status").exit_code == 3


def test_output_has_no_colours_off_a_terminal(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    assert "\x1b" not in run("status").output


def test_up_and_down_set_targets(daemon: FakeDaemon, run: Run) -> None:
    for n in range(3):
        daemon.add(f"data{n}")
    assert run("down", "--all").exit_code == 0
    result = run("up", "data1")
    assert result.output == "data1: target up\n"
    assert [i.target_state for i in daemon.instances.values()] == [DOWN, UP, DOWN]


def test_update_applies_changes_in_order(daemon: FakeDaemon, run: Run) -> None:
    for n in range(3):
        daemon.add(f"data{n}", target_state=DOWN)
    result = run("update", "all=up", "data1=down", "--wait")
    assert result.exit_code == 0
    assert [i.target_state for i in daemon.instances.values()] == [UP, DOWN, UP]
    assert "data1: target down" in result.output
    assert "3 instances reached the target" in result.output


def test_update_can_only_check(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    result = run("update", "data1=down", "--validate-only", "--reload")
    assert result.exit_code == 0
    assert daemon.instances["data1"].target_state == UP
    assert daemon.requests[-1] == pb.UpdateRequest(
        requests=[pb.TargetChange(instance_id="data1", target_state=DOWN)],
        reload_config=True,
        validate_only=True,
    )


def test_a_failed_wait_exits_1_and_names_the_instances(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    daemon.add("data2")
    daemon.stubborn.add("data2")
    result = run("down", "--all", "--wait", "--timeout", "1.5")
    assert result.exit_code == 1
    assert "data1: reached the target" in result.stderr
    assert "Error: 1 instance did not reach the target within 1.5 s: data2 is up" in result.stderr


def test_waiting_as_json_is_one_document(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    document = json.loads(run("restart", "data1", "--wait", "--json").stdout)
    assert document["generations"] == [{"instance_id": "data1", "generation": 2, "target_state": "up"}]
    assert document["wait"] == {"reached": ["data1"]}
    daemon.stubborn.add("data1")
    result = run("down", "data1", "--wait", "--json", "--timeout", "0.2")
    assert result.exit_code == 1
    error = json.loads(result.stderr)["error"]
    assert error["kind"] == "TargetNotReached"
    assert [one["instance_id"] for one in error["unreached"]] == ["data1"]


def test_reload_shows_the_warnings_of_the_config(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    daemon.problems.append(
        pb.ConfigProblem(
            severity=pb.SEVERITY_WARNING, file="site.yaml", line=7, message="unknown key 'argumets'"
        )
    )
    result = run("reload", "--wait")
    assert result.exit_code == 0
    assert "config warning: site.yaml:7: unknown key 'argumets'" in result.stderr
    assert "site config read: no instance changed" in result.stdout


def said(daemon: FakeDaemon, instance_id: str, output: str) -> pb.ManagedInstance:
    """Let the last run of an instance have written this output."""
    crashed(daemon, instance_id)
    instance = daemon.instances[instance_id]
    instance.last_exit.last_output = output
    daemon.publish(instance)
    return instance


def test_the_last_line_stands_after_how_a_run_ended(daemon: FakeDaemon, run: Run) -> None:
    said(daemon, "data1", "Traceback:\nError: no sensor")
    row = run("status").output.splitlines()[-1]
    assert re.search(r'code 3, .* s ago: "Error: no sensor"; restarting in', row)
    said(daemon, "data1", "e" * 300)
    assert f'"{"e" * 59}…"; restarting' in run("status").output


def test_the_last_line_stands_after_a_start_that_was_never_ready(daemon: FakeDaemon, run: Run) -> None:
    instance = said(daemon, "data1", "connecting")
    instance.last_exit.expected = True
    instance.message = "start failed: not ready after 5 s; waiting to restart (attempt 2)"
    daemon.publish(instance)
    assert 'start failed: not ready after 5 s: "connecting"; restarting' in run("status").output


@pytest.mark.parametrize(
    "change",
    [
        {"message": "start failed: cannot start 'data1': no such file; waiting to restart (attempt 2)"},
        {"next_action": pb.NEXT_ACTION_DOWN, "reason": "Finished", "message": "completed with code 0"},
        {"next_action": pb.NEXT_ACTION_UP, "reason": "Running", "message": "running"},
    ],
)
def test_output_that_explains_nothing_is_left_out(
    daemon: FakeDaemon, run: Run, change: dict[str, Any]
) -> None:
    said(daemon, "data1", "of an earlier run")
    daemon.change("data1", **change)
    assert "of an earlier run" not in run("status").output


def test_an_event_of_an_end_has_the_last_line(daemon: FakeDaemon, run: Run) -> None:
    ended = pb.Exit(code=3, last_output="Traceback:\nError: no sensor")
    daemon.happen("ended with code 3", "data1", kind=pb.EVENT_KIND_EXIT, reason="Exited", exit=ended)
    assert run("events").output.endswith('Exited: ended with code 3: "Error: no sensor"\n')
    assert json.loads(run("events", "--json").output)["exit"]["last_output"] == ended.last_output


def test_show_has_all_last_lines(daemon: FakeDaemon, run: Run) -> None:
    said(daemon, "data1", "Traceback:\nError: \x1b[2Jno sensor")
    lines = run("show", "data1").output.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("last output:"))
    column = lines[first].index("Traceback:")
    assert lines[first + 1] == " " * column + "Error: \\x1b[2Jno sensor"


def test_a_limit_and_a_core_dump_are_told(daemon: FakeDaemon, run: Run) -> None:
    instance = said(daemon, "data1", "")
    instance.last_exit.signal = "SIGXCPU"
    instance.last_exit.limit = "cpu"
    instance.last_exit.core_dumped = True
    daemon.publish(instance)
    assert "signal SIGXCPU (limit 'cpu' reached, core dumped), " in run("status").output


def test_a_failed_wait_has_the_last_line(daemon: FakeDaemon, run: Run) -> None:
    instance = said(daemon, "data1", "Traceback:\nError: no sensor")
    instance.reason = "Failed"
    instance.next_action = pb.NEXT_ACTION_DOWN
    instance.message = "last exit: code 3; gave up after 4 failures in a row"
    daemon.publish(instance)
    daemon.stubborn.add("data1")
    result = run("up", "data1", "--wait", "--timeout", "1")
    assert result.exit_code != 0
    assert 'gave up after 4 failures in a row; last output: "Error: no sensor"' in result.stderr


def test_show_has_all_properties_of_an_instance(daemon: FakeDaemon, run: Run) -> None:
    crashed(daemon, "data1")
    daemon.instances["data1"].process.env_files.extend(
        [pb.EnvFile(path="/etc/lab.env", loaded=True), pb.EnvFile(path="/etc/more.env", optional=True)]
    )
    output = run("show", "data1").output
    assert "/etc/lab.env, /etc/more.env (optional, not loaded)" in output
    assert "command:" in output
    assert "agent data1" in output
    assert "last exit:" in output
    assert json.loads(run("show", "data1", "--json").output)["last_exit"]["code"] == 3


def test_logs_prints_lines_as_they_are(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    daemon.write("data1", "one", "two", "three")
    assert run("logs", "data1", "-n", "2").output == "two\nthree\n"
    lines = [json.loads(line) for line in run("logs", "data1", "--json").output.splitlines()]
    assert lines[0] == {
        "instance_id": "data1", "text": "one", "stream": "combined", "continues": False, "time": None
    }  # fmt: skip


def test_logs_of_the_daemon(daemon: FakeDaemon, run: Run) -> None:
    daemon.write("", "started", "serving")
    assert run("logs", "--daemon", "-n", "1").output == "serving\n"
    assert daemon.requests[-1] == pb.TailLogsRequest(daemon=True, lines=1)
    assert json.loads(run("logs", "--daemon", "--json", "-n", "1").output)["text"] == "serving"
    for words in (("logs",), ("logs", "data1", "--daemon")):
        result = run(*words)
        assert (result.exit_code, "Name an instance, or use --daemon" in result.stderr) == (2, True)


def test_the_log_file_tells_of_a_daemon_that_is_gone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTMANAGER_STATE_DIR", str(tmp_path))
    (tmp_path / "daemon.log").write_text("one\ntwo\nthe cause \x1b[2J\n")
    result = run("logs", "--daemon", "-n", "2", "-a", str(tmp_path / "nobody.sock"))
    assert result.exit_code == 3
    assert result.stdout == "two\nthe cause \x1b[2J\n"
    assert result.stderr.startswith(f"no daemon answers; the end of {tmp_path / 'daemon.log'}:\n")


@pytest.mark.parametrize(
    "words",
    [("up", "data1"), ("down", "data1"), ("restart", "data1"), ("update", "data1=up"), ("reload",),
     ("manager", "start"), ("manager", "stop"), ("upgrade",), ("die",)],
    ids=" ".join,
)  # fmt: skip
def test_a_change_carries_its_reason_and_who_asks(
    daemon: FakeDaemon, run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.add("data1")
    if "start" in words:
        daemon.manager_state = pb.MANAGER_STATE_STOPPED
    monkeypatch.setattr(sys, "argv", ["/opt/bin/hostmanager", "--timeout", "5", *words])
    monkeypatch.setenv("SUDO_USER", "ada")
    assert run(*words, "--reason", "valve swap").exit_code == 0
    asked = [n for n, request in enumerate(daemon.requests) if getattr(request, "reason", "")]
    assert [getattr(daemon.requests[n], "reason", "") for n in asked] == ["valve swap"]
    who = daemon.callers[asked[0]]
    assert (who["hostmanager-user"], who["hostmanager-program"]) == ("ada", f"hostmanager {words[0]}")


def _asked(who: pb.Requester, reason: str = "valve swap") -> pb.ChangeOrigin:
    now = Timestamp()
    now.GetCurrentTime()
    return pb.ChangeOrigin(kind=pb.ChangeOrigin.KIND_CALL, requester=who, reason=reason, time=now)


def test_status_show_and_events_tell_who_asked_and_why(daemon: FakeDaemon, run: Run) -> None:
    instance = daemon.add(
        "data1", target_state=DOWN, next_action=pb.NEXT_ACTION_DOWN, message="never started"
    )
    verified = pb.Requester(
        user="ada", program="hostmanager down", pid=812, uid=0, verified=True, peer="unix"
    )
    instance.target_origin.CopyFrom(_asked(verified))
    daemon.publish(instance)
    daemon.happen("targets: data1 down", reason="Update")
    daemon.events[-1].origin.CopyFrom(instance.target_origin)
    assert 'never started; reason given: "valve swap"' in run("status").output
    words = 'uid 0, pid 812, says it is ada (hostmanager down): "valve swap"'
    assert f"{words}, " in run("show", "data1").output
    assert run("events").output.endswith(f"[{words}]\n")
    shown = json.loads(run("show", "data1", "--json").output)["target_origin"]
    assert (shown["kind"], shown["reason"], shown["requester"]["verified"]) == ("call", "valve swap", True)


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (
            _asked(pb.Requester(user="ada", program="cron.py", pid=7, peer="127.0.0.1:4711"), ""),
            "a client at 127.0.0.1:4711, says it is ada, says it has pid 7 (cron.py)",
        ),
        (_asked(pb.Requester(uid=1000, peer="unix"), ""), "a client of uid 1000"),
        (pb.ChangeOrigin(kind=pb.ChangeOrigin.KIND_SIGNAL, detail="SIGTERM"), "signal SIGTERM"),
        (pb.ChangeOrigin(kind=pb.ChangeOrigin.KIND_CONFIG, detail="/s.yaml"), "site config /s.yaml"),
        (pb.ChangeOrigin(kind=pb.ChangeOrigin.KIND_FILE, detail="/c.yaml"), "changed file /c.yaml"),
        (pb.ChangeOrigin(kind=pb.ChangeOrigin.KIND_DEPENDENCY, detail="hub"), "dependency hub"),
        (pb.ChangeOrigin(kind=pb.ChangeOrigin.KIND_DAEMON), "the daemon"),
        (_asked(pb.Requester(user="a\x1b[2Jb"), "\x1b[2J"), 'a client, says it is a\\x1b[2Jb: "\\x1b[2J"'),
    ],
    ids=["claims", "user", "signal", "config", "file", "dependency", "daemon", "escapes"],
)
def test_an_origin_in_words_marks_claims_as_such(origin: pb.ChangeOrigin, words: str) -> None:
    assert origin_words(origin) == words


def test_all_events_are_printed_when_there_are_fewer_than_asked_for(daemon: FakeDaemon, run: Run) -> None:
    for n in range(5):
        daemon.happen(f"event {n}")
    for asked in ("1", "3", "5", "6", "9", "50"):
        assert len(run("events", "-n", asked).output.splitlines()) == min(int(asked), 5)
    assert run("events", "-n", "0").output == ""


def test_events_are_printed_oldest_first(daemon: FakeDaemon, run: Run) -> None:
    for n in range(5):
        daemon.happen(
            f"event {n}", "data1", kind=pb.EVENT_KIND_EXIT, severity=pb.SEVERITY_WARNING, reason="Exited"
        )
    lines = run("events", "-n", "2").output.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("Exited: event 3")
    assert "warning" in lines[1]
    assert json.loads(run("events", "--json", "-n", "1").output)["kind"] == "exit"
    assert run("events", "-n", "0").output == ""


def test_the_manager_is_stopped_and_started(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    assert run("manager", "start").exit_code == 5
    assert run("manager", "stop").exit_code == 0
    assert "manager stopped" in run("manager", "status").output
    result = run("up", "data1")
    assert result.exit_code == 5
    assert "start it first (`hostmanager manager start`)" in result.stderr
    assert run("manager", "start", "--no-reload", "all=up", "--wait").exit_code == 0
    start = next(r for r in reversed(daemon.requests) if isinstance(r, pb.StartManagerRequest))
    assert start.reload_config is False
    assert start.requests[0].instance_id == "all"


def test_die_sends_the_epoch_of_the_daemon(daemon: FakeDaemon, run: Run) -> None:
    result = run("die", "--disown-processes", "--yes")
    assert result.exit_code == 0
    assert daemon.requests[-1] == pb.DieRequest(disown_processes=True, expected_epoch="epoch-1")
    assert "processes still run" in result.output


def test_upgrade_waits_for_the_daemon_that_takes_over(daemon: FakeDaemon, run: Run) -> None:
    result = run("upgrade", "--json")
    assert result.exit_code == 0
    assert pb.UpgradeRequest(expected_epoch="epoch-1") in daemon.requests
    document = json.loads(result.output)
    assert (document["previous_epoch"], document["epoch"]) == ("epoch-1", "epoch-1+")
    assert run("upgrade").output.startswith("upgraded from ")


def test_an_upgrade_without_a_new_daemon_is_a_failure(daemon: FakeDaemon, run: Run) -> None:
    daemon.upgrade_succeeds = False
    result = run("upgrade", "--timeout", "1")
    assert result.exit_code == 1
    assert "still runs after 1 s" in result.stderr


def test_a_check_before_an_upgrade_changes_nothing(daemon: FakeDaemon, run: Run) -> None:
    result = run("upgrade", "--check")
    assert "9.9" in result.output
    assert daemon.requests[-1] == pb.UpgradeRequest(expected_epoch="epoch-1", validate_only=True)
    assert daemon.epoch == "epoch-1"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.UNAVAILABLE, 3),
        (grpc.StatusCode.NOT_FOUND, 4),
        (grpc.StatusCode.FAILED_PRECONDITION, 5),
        (grpc.StatusCode.ABORTED, 5),
        (grpc.StatusCode.PERMISSION_DENIED, 6),
    ],
)
def test_each_failure_has_its_exit_code(
    daemon: FakeDaemon, run: Run, code: grpc.StatusCode, exit_code: int
) -> None:
    daemon.fail_next = (code, "that went wrong", "SOME_REASON", [("requests[0]", "is odd")])
    result = run("reload")
    assert result.exit_code == exit_code
    assert "that went wrong" in result.stderr
    assert "requests[0]: is odd" in result.stderr


def test_an_unknown_instance_comes_with_a_suggestion(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("thermo1")
    for command in (["show", "termo1"], ["up", "termo1"], ["logs", "termo1"], ["update", "termo1=up"]):
        result = run(*command)
        assert result.exit_code == 4
        assert "did you mean 'thermo1'?" in result.stderr


def test_an_error_as_json_goes_to_standard_error(daemon: FakeDaemon, run: Run) -> None:
    result = run("show", "data9", "--json")
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["kind"] == "NotFound"
    assert error["reason"] == "UNKNOWN_INSTANCE"
    assert error["violations"] == [{"field": "instance_id", "description": "no instance 'data9'"}]


@pytest.mark.parametrize(
    "args",
    [
        ["up"],
        ["up", "data1", "--all"],
        ["update"],
        ["update", "data1"],
        ["update", "data1=sideways"],
        ["update", "data1=up", "--validate-only", "--wait"],
        ["status", "--timeout", "0"],
        ["logs"],
        ["logs", "data1", "-n", "-1"],
        ["--address", "garbage", "status"],
        ["status", "-a", "unix://relative"],
        ["completion", "tcsh"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_exits_2(daemon: FakeDaemon, run: Run, args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert daemon.requests == []


def test_a_mistyped_command_comes_with_a_suggestion(run: Run) -> None:
    assert "Did you mean 'status'" in run("statsu").stderr
    assert "Did you mean 'start'" in run("manager", "strt").stderr
    assert "Did you mean 'remove'" in run("orphans", "remov").stderr


@pytest.mark.parametrize(
    ("word", "command"),
    [("start", "`hostmanager up`"), ("stop", "`hostmanager down`"), ("ps", "`hostmanager status`"),
     ("rm", "`hostmanager down`"), ("exec", "docker compose"), ("reread", "`hostmanager reload`")],
)  # fmt: skip
def test_a_word_of_compose_or_supervisor_leads_to_the_command(run: Run, word: str, command: str) -> None:
    result = run(word, "data1")
    assert result.exit_code == 2
    assert command in result.stderr


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    output = run("--help").output
    for name in COMMANDS:
        assert f"  {name} " in output
        assert run(name, "--help").exit_code == 0
    assert "130" in output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run: Run, shell: str) -> None:
    assert "_HOSTMANAGER_COMPLETE" in run("completion", shell).output


def complete(run: Run, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setenv("_HOSTMANAGER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["hostmanager", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return [line.partition(",")[2] for line in run().output.splitlines() if line]


def test_instance_ids_are_completed_from_the_daemon(
    daemon: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for instance_id in ("data1", "data2", "thermo1"):
        daemon.add(instance_id)
    assert complete(run, monkeypatch, "up", "da") == ["data1", "data2"]
    assert complete(run, monkeypatch, "-a", str(daemon.socket), "show", "th") == ["thermo1"]
    assert complete(run, monkeypatch, "update", "thermo1=d") == ["thermo1=down"]
    assert "status" in complete(run, monkeypatch, "st")


def test_completion_is_quiet_without_a_daemon(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete(run, monkeypatch, "up", "da") == []


def test_foreign_control_characters_do_not_reach_the_terminal(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_UNKNOWN, message="bad \x1b[2J\nname")
    output: Any = run("status").output
    assert "\x1b" not in output
    assert len(output.splitlines()) == 5
