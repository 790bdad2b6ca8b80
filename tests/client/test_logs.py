"""Logs for people: several instances, times, choices, folded progress bars, terminals of all kinds."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import InstanceLine, InvalidRequest, NotFound
from hostmanager_client.cli import log_text
from hostmanager_client.log_merge import MOST_FOLLOWED, LogMerge

from tests.client.cli_runner import command_line, make_runner
from tests.client.fake_daemon import FakeDaemon
from tests.waiting import wait_until

Run = Callable[..., Result]
COMMAND = [sys.executable, "-c", "from hostmanager_client.cli import main; main()"]
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def run(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(daemon.socket))
    monkeypatch.setenv("TZ", "UTC")

    def invoke(*args: str) -> Result:
        return make_runner().invoke(command_line, args, prog_name="hostmanager", catch_exceptions=False)

    return invoke


@pytest.fixture
def three(daemon: FakeDaemon) -> FakeDaemon:
    """Return a daemon with three instances, whose lines alternate."""
    for n, name in enumerate(("thermo1", "thermo2", "cryo")):
        daemon.add(name)
        daemon.write(name, f"{name} one", at=NOON + n)
        daemon.write(name, f"{name} two", at=NOON + 10 + n)
    return daemon


# --- several instances


def test_lines_of_several_instances_come_in_the_order_of_their_times(three: FakeDaemon, run: Run) -> None:
    assert run("logs", "thermo*", "cryo").output.splitlines() == [
        "thermo1 | thermo1 one", "thermo2 | thermo2 one", "cryo    | cryo one",
        "thermo1 | thermo1 two", "thermo2 | thermo2 two", "cryo    | cryo two",
    ]  # fmt: skip
    assert run("logs", "thermo*", "cryo", "-n", "1", "--no-prefix").output.splitlines() == [
        "thermo1 two", "thermo2 two", "cryo two"
    ]  # fmt: skip


def test_a_line_of_unknown_time_follows_the_line_before(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("a")
    daemon.add("b")
    daemon.write("a", "a1", at=NOON + 5)
    daemon.write("a", "a2, unknown")
    daemon.write("b", "b1", at=NOON)
    daemon.write("b", "b2", at=NOON + 9)
    assert run("logs", "a", "b", "--no-prefix").output.split("\n")[:-1] == ["b1", "a1", "a2, unknown", "b2"]


def test_a_single_pattern_has_prefixes_and_a_single_id_has_none(three: FakeDaemon, run: Run) -> None:
    assert run("logs", "cry*", "-n", "1").output == "cryo | cryo two\n"
    assert run("logs", "cryo", "-n", "1").output == "cryo two\n"
    assert run("logs", "cryo", "-n", "1", "--prefix").output == "cryo | cryo two\n"


def test_a_pattern_without_a_match_names_the_instances(three: FakeDaemon, run: Run) -> None:
    result = run("logs", "nothing*")
    assert result.exit_code == 4
    assert "no instance on this host matches 'nothing*'; known: cryo, thermo1, thermo2" in result.stderr


def test_an_instance_that_cannot_be_read_does_not_hide_the_others(three: FakeDaemon, run: Run) -> None:
    result = run("logs", "cryo", "nosuch", "thermo1", "-n", "1")
    assert result.exit_code == 4
    assert result.stdout.splitlines() == ["thermo1 | thermo1 two", "cryo    | cryo two"]
    assert "nosuch" in result.stderr


def test_json_lines_name_their_instance_and_have_their_time(three: FakeDaemon, run: Run) -> None:
    lines = [
        json.loads(line) for line in run("logs", "thermo1", "cryo", "-n", "1", "--json").output.splitlines()
    ]
    assert lines[0] == {
        "instance_id": "thermo1", "text": "thermo1 two", "stream": "combined", "continues": False,
        "time": "2026-11-28T12:00:10.000Z",
    }  # fmt: skip
    assert lines[1]["instance_id"] == "cryo"


def test_a_merge_stops_waiting_for_an_instance_that_says_nothing() -> None:
    merge = LogMerge(["a", "b"])
    line = pb.LogLine(text="x")
    assert merge.add("a", line) == []
    assert merge.caught_up("a") == []
    assert merge.release() == [InstanceLine("a", line)]
    assert merge.add("b", line) == [InstanceLine("b", line)]
    assert merge.caught_up("b") == []


# --- the Python clients


def test_followers_of_several_instances_get_old_lines_by_time_and_then_new_ones(
    three: FakeDaemon, client: Any
) -> None:
    with closing(client.tail_all_logs(["cryo", "thermo1"], lines=1, follow=True)) as lines:
        assert [next(lines).line.text for _ in range(2)] == ["thermo1 two", "cryo two"]
        three.write("cryo", "new")
        found = next(lines)
        assert (found.instance_id, found.line.text) == ("cryo", "new")
    wait_until(lambda: three.streams == 0, "the end of the streams")


def test_a_daemon_that_does_not_say_when_a_follower_has_caught_up(
    three: FakeDaemon, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("log_readers", "log_readers_async"):
        monkeypatch.setattr(f"hostmanager_client.{module}.PATIENCE", 0.2)
    three.old_daemon = True
    with closing(client.tail_all_logs(["cryo", "thermo1"], lines=1, follow=True)) as lines:
        assert [next(lines).line.text for _ in range(2)] == ["thermo1 two", "cryo two"]


def test_an_error_of_one_instance_is_raised_unless_somebody_takes_it(three: FakeDaemon, client: Any) -> None:
    with pytest.raises(NotFound):
        list(client.tail_all_logs(["cryo", "nosuch"]))
    errors: list[str] = []
    found = list(client.tail_all_logs(["cryo", "nosuch"], on_error=lambda each, _: errors.append(each)))
    assert [each.line.text for each in found] == ["cryo one", "cryo two"]
    assert errors == ["nosuch"]


def test_many_instances_are_read_and_too_many_followers_refused(daemon: FakeDaemon, client: Any) -> None:
    names = [f"data{n}" for n in range(MOST_FOLLOWED + 1)]
    for name in names:
        daemon.add(name)
        daemon.write(name, name)
    assert [each.line.text for each in client.tail_all_logs(names)] == names
    assert {request.lines for request in daemon.log_requests} == {100}
    with pytest.raises(InvalidRequest, match="cannot follow 61 instances at once: name at most 60"):
        client.tail_all_logs(names, follow=True)
    assert list(client.tail_all_logs([])) == []


def test_times_and_runs_go_into_the_request(daemon: FakeDaemon, client: Any) -> None:
    daemon.add("a")
    since = datetime(2026, 11, 28, 12, 0, 0, 500_000, tzinfo=UTC)
    list(client.tail_logs("a", since=since, until=datetime(2026, 11, 28, 13, tzinfo=UTC), previous=True))
    request = daemon.log_requests[-1]
    assert (request.since.seconds, request.since.nanos) == (int(NOON), 500_000_000)
    assert request.until.seconds == int(NOON) + 3600
    assert (request.previous, request.lines) == (True, 100_000)
    for wrong in ({"follow": True, "previous": True}, {"follow": True, "until": since}):
        with pytest.raises(InvalidRequest, match="exclude each other"):
            list(client.tail_logs("a", **wrong))
    with pytest.raises(InvalidRequest, match="until lies before since"):
        list(client.tail_logs("a", since=since, until=datetime(2026, 1, 1, tzinfo=UTC)))
    with pytest.raises(InvalidRequest, match="not a time from 1970"):
        list(client.tail_logs("a", since=datetime(1900, 1, 1, tzinfo=UTC)))


# --- choices


def test_times_stand_before_the_lines(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("a")
    daemon.write("a", "old")
    daemon.write("a", "new", at=NOON)
    assert run("logs", "a", "-t").output == f"{'-':19}  old\n2026-11-28 12:00:00  new\n"
    assert run("logs", "a", "-t", "--prefix", "-n", "1").output == "a | 2026-11-28 12:00:00  new\n"


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_a_time_goes_to_the_daemon_and_lifts_the_limit_of_lines(
    daemon: FakeDaemon, run: Run, option: str
) -> None:
    daemon.add("a")
    assert run("logs", "a", option, "2026-11-28 12:00").exit_code == 0
    request = daemon.log_requests[-1]
    assert request.lines == 100_000
    assert getattr(request, option[2:]).seconds == int(NOON)
    assert run("logs", "a", option, "soon").exit_code == 2


def test_contradictory_options_are_refused(daemon: FakeDaemon, run: Run) -> None:
    for wrong in (
        ("-f", "--previous"), ("-f", "--until", "1h"), ("-i",), ("-v",), ("--grep", "["),
        ("--since", "1h", "--until", "2h"),
    ):  # fmt: skip
        assert run("logs", "a", *wrong).exit_code == 2, wrong


def test_a_search_shows_the_last_matches_of_all_kept_lines(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("a")
    daemon.write("a", *(f"\x1b[31mERR\x1b[0mOR {n}" if n % 50 == 0 else f"fine {n}" for n in range(1000)))
    assert run("logs", "a", "--grep", "error", "-i", "-n", "2").output == "ERROR 900\nERROR 950\n"
    assert run("logs", "a", "--grep", "error").output == ""
    assert run("logs", "a", "--grep", "ERROR", "-v", "-n", "1").output == "fine 999\n"
    assert daemon.log_requests[-1].lines == 100_000


def test_the_pieces_of_a_long_line_stay_together_in_a_search() -> None:
    chosen = log_text.LogFilter("begin", ignore_case=False, invert=False)
    pieces = [pb.LogLine(text="begin", continues=True), pb.LogLine(text="rest"), pb.LogLine(text="other")]
    assert [chosen.accepts("a", piece) for piece in pieces] == [True, True, False]


# --- what a terminal shows


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10%\r50%\r100%", "100%"),
        ("\r100%\r", "100%"),
        ("done\r   \r", "done"),
        ("\x1b[32m50%\x1b[0m\r\x1b[0m", "\x1b[32m50%\x1b[0m"),
        ("\r\r", ""),
    ],
)
def test_of_a_progress_bar_the_last_state_appears(text: str, shown: str) -> None:
    assert log_text.fold(text) == shown


def test_progress_bars_are_folded_and_colours_left_out_in_a_pipe(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("a")
    daemon.write("a", "load 10%\rload 100%", "\x1b[31mred\x1b[0m", "windows\r")
    assert run("logs", "a").output == "load 100%\nred\nwindows\n"
    assert run("logs", "a", "--raw").output == "load 10%\rload 100%\n\x1b[31mred\x1b[0m\nwindows\n"


def test_lines_of_others_do_not_run_into_a_line_that_has_not_ended(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = log_text.LogPrinter(log_text.LogStyle(prefixes=("a", "b")))
    printer.show("a", pb.LogLine(text="working ", continues=True))
    printer.show("b", pb.LogLine(text="interrupts"))
    printer.show("a", pb.LogLine(text="goes on ", continues=True))
    printer.show("a", pb.LogLine(text="here"))
    printer.show("a", pb.LogLine(text="10%", continues=True))
    printer.show("a", pb.LogLine(text="\r20%", continues=True))
    printer.end()
    assert capsys.readouterr().out.splitlines() == [
        "a | working ", "b | interrupts", "a | goes on here", "a | 10%", "a | 20%"
    ]  # fmt: skip


def shown_on_a_terminal(daemon: FakeDaemon, env: dict[str, str], *args: str) -> tuple[int, str]:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(daemon.socket), "TERM": "xterm", **env}
    process = subprocess.Popen(
        [*COMMAND, *args], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    output = bytearray()

    def read() -> None:
        try:
            while data := os.read(controller, 65536):
                output.extend(data)
        except OSError:  # the other end was closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(60)
    reader.join()
    os.close(controller)
    return code, output.decode("latin-1")


def test_prefixes_have_a_colour_for_each_instance_on_a_terminal(three: FakeDaemon) -> None:
    _, shown = shown_on_a_terminal(three, {}, "logs", "thermo1", "cryo", "-n", "1")
    colours = re.findall(r"(\x1b\[\d+m)\S+ +\|\x1b\[0m", shown)
    assert len(set(colours)) == 2
    _, shown = shown_on_a_terminal(three, {"NO_COLOR": "1"}, "logs", "thermo1", "cryo", "-n", "1")
    assert "\x1b" not in shown


NO_UTF8 = [
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
]


@pytest.mark.parametrize("env", NO_UTF8, ids=lambda env: "-".join(env.values()))
@pytest.mark.parametrize("where", ["terminal", "pipe"])
def test_a_terminal_without_utf_8_shows_every_line(
    daemon: FakeDaemon, env: dict[str, str], where: str
) -> None:
    daemon.add("d\xfc")
    daemon.add("other")
    daemon.write("other", "caf\xe9 \u2013 \U0001f600 \ufffd\ufffd")
    for args in (("logs", "*"), ("logs", "nosuch\xe9*", "--json")):
        if where == "terminal":
            code, shown = shown_on_a_terminal(daemon, env, *args)
        else:
            environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(daemon.socket), **env}
            done = subprocess.run([*COMMAND, *args], env=environment, capture_output=True, check=False)
            code, shown = done.returncode, (done.stdout + done.stderr).decode("latin-1")
        assert "bug" not in shown, (args, shown)
        assert code in (0, 2, 4), (args, shown)
        assert code in (2, 4) or "caf" in shown
