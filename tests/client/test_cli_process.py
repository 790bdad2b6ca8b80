"""The command line as a process: signals, pipes, terminals, start-up."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket as sockets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.client.fake_daemon import FakeDaemon, until

COMMAND = [sys.executable, "-c", "from hostmanager_client.cli import main; main()"]
Start = Callable[..., "subprocess.Popen[str]"]


def socketpair() -> tuple[int, int]:
    """Return the descriptors of two connected sockets."""
    one, other = sockets.socketpair()
    return one.detach(), other.detach()


@pytest.fixture
def start(socket: Path) -> Iterator[Start]:
    """Return a function that starts the command line; kill running processes at the end."""
    running: list[subprocess.Popen[str]] = []

    def popen(*args: str, env: dict[str, str] | None = None, **kwargs: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(socket), **(env or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | kwargs
        running.append(subprocess.Popen([*COMMAND, *args], env=environment, text=True, **pipes))
        return running[-1]

    yield popen
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out or "", err


def line_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    value: dict[str, Any] = json.loads(process.stdout.readline())
    return value


def test_status_of_a_running_daemon(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    code, out, err = finish(start("status"))
    assert (code, err) == (0, "")
    assert "data1" in out


@pytest.mark.parametrize(
    ("args", "exit_code", "says"),
    [
        (["status"], 3, "no such socket. Start the daemon with `hostmanager serve SITE.yaml`"),
        (["watch"], 3, "no such socket"),
        (["logs", "-f", "data1"], 3, "no such socket"),
        (["events", "-f"], 3, "no such socket"),
        (["die", "--yes"], 3, "no such socket"),
        (["status", "-a", "127.0.0.1:1"], 3, "connection refused"),
        (["status", "-a", "no-such-host.invalid:80", "--timeout", "20"], 3, "no-such-host.invalid"),
        (["status", "-a", "\x02\x01:"], 2, "as an address"),
        (["status", "-a", "::::"], 2, "as an address"),
    ],
)
def test_an_absent_daemon_is_a_short_error(start: Start, args: list[str], exit_code: int, says: str) -> None:
    code, out, err = finish(start(*args))
    assert (code, out) == (exit_code, "")
    assert says in err
    assert err.startswith("Error: ")
    assert err.count("\n") == 1


def test_a_socket_without_a_listener_is_reported(daemon: FakeDaemon, start: Start) -> None:
    path = daemon.socket.with_name("stale.sock")
    with sockets.socket(sockets.AF_UNIX) as stale:
        stale.bind(str(path))
    code, _, err = finish(start("status", "-a", str(path)))
    assert code == 3
    assert "no process listens on the socket" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_closed_directory_is_a_permission_error(daemon: FakeDaemon, socket: Path) -> None:
    # Root passes every permission check, so a child with the uid of nobody makes the call.
    socket.parent.chmod(0o700)
    program = (
        "import os, grpc\n"
        "from hostmanager_client.address import parse_address\n"
        "from hostmanager_client.rpc_errors import make_error\n"
        "os.setuid(65534)\n"
        f"e = make_error('UNAVAILABLE', 'x', (), 'look', parse_address({str(socket)!r}))\n"
        "print(type(e).__name__, e)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("PermissionDenied cannot reach the daemon")
    assert "Run the command as the user of the daemon" in done.stdout


def test_watch_in_a_pipe_prints_json_lines(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    process = start("watch")
    first = line_of(process)
    assert (first["type"], first["snapshot"], len(first["instances"])) == ("status", "initial", 1)
    daemon.change("data1", next_action=pb.NEXT_ACTION_WAIT_DEAD)
    second = line_of(process)
    assert second["instances"][0]["next_action"] == "wait_dead"
    assert second["manager"] is None
    daemon.remove("data1")
    assert line_of(process)["removed_instance_ids"] == ["data1"]


def test_a_watch_survives_the_death_of_the_daemon(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    process = start("watch", "--json")
    line_of(process)
    daemon.restart("epoch-2")
    documents = [line_of(process) for _ in range(3)]
    assert [one["type"] for one in documents] == ["disconnected", "reconnected", "status"]
    assert documents[2]["snapshot"] == "epoch_changed"


@pytest.mark.parametrize("args", [["watch"], ["logs", "-f", "data1"], ["events", "-f"]])
def test_ctrl_c_ends_a_following_command_quietly(daemon: FakeDaemon, start: Start, args: list[str]) -> None:
    daemon.add("data1")
    process = start(*args)
    daemon.wait_until(lambda: daemon.streams == 1)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err.strip() == ""
    daemon.wait_until(lambda: daemon.streams == 0)


def test_ctrl_c_while_waiting_exits_130(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    daemon.stubborn.add("data1")
    process = start("down", "data1", "--wait")
    daemon.wait_until(lambda: daemon.streams == 1)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130


def test_a_closed_pipe_ends_a_command_quietly(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    daemon.write("data1", *("x" * 100 for _ in range(5000)))
    process = start("logs", "data1", "-n", "5000")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


@pytest.mark.parametrize("args", [["watch"], ["logs", "-f", "data1"], ["events", "-f"], ["pull"]])
@pytest.mark.parametrize("channel", [os.pipe, socketpair])
def test_a_follower_ends_when_its_reader_has_left(
    daemon: FakeDaemon, start: Start, channel: Callable[[], tuple[int, int]], args: list[str]
) -> None:
    daemon.add("data1")
    daemon.pull_waits = True
    reader, writer = channel()
    process = start(*args, stdout=writer)
    os.close(writer)
    daemon.wait_until(lambda: daemon.streams == 1)
    os.close(reader)  # no further line follows
    code, _, err = finish(process)
    assert (code, err) == (141, "")
    daemon.wait_until(lambda: daemon.streams == 0)


def test_a_follower_without_a_connection_ends_when_its_reader_has_left(
    daemon: FakeDaemon, start: Start
) -> None:
    process = start("watch")
    line_of(process)
    daemon.stop()
    assert line_of(process)["type"] == "disconnected"
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 141


def test_a_follower_whose_output_is_a_file_goes_on(daemon: FakeDaemon, start: Start, tmp_path: Path) -> None:
    daemon.add("data1")
    output = tmp_path / "output"
    with output.open("w") as file:
        process = start("watch", stdout=file)
    until(lambda: "data1" in output.read_text())
    daemon.change("data1", message="still here")
    until(lambda: "still here" in output.read_text())
    assert process.poll() is None


@pytest.mark.parametrize("args", [["watch"], ["events"], ["events", "-f"], ["logs"], ["logs", "-f"]])
def test_an_unknown_instance_is_no_reason_to_wait(daemon: FakeDaemon, start: Start, args: list[str]) -> None:
    daemon.add("data1")
    code, out, err = finish(start(*args, "data2"))
    assert (code, out) == (4, "")
    assert "unknown instance: data2; did you mean 'data1'?" in err


def test_the_events_of_a_former_instance_are_shown(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    daemon.happen("gone now", "former")
    code, out, _ = finish(start("events", "former", "data1"))
    assert code == 0
    assert "gone now" in out


@pytest.mark.parametrize("args", [["up", "data1"], ["events"]], ids=["short", "long"])
def test_a_command_without_standard_output_does_its_work(
    daemon: FakeDaemon, socket: Path, args: list[str]
) -> None:
    daemon.add("data1")
    line = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *args, "-a", str(socket)]
    done = subprocess.run(line, check=False, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_character_that_the_output_cannot_have_is_escaped(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data\u2013\xfc")
    kind: dict[str, Any] = {"env": {"PYTHONIOENCODING": "latin-1"}, "encoding": "latin-1"}
    code, out, err = finish(start("up", "data\u2013\xfc", **kind))
    assert (code, err) == (0, "")
    assert "data\\u2013\xfc" in out
    _, out, _ = finish(start("show", "data\u2013\xfc", "--json", **kind))
    assert json.loads(out)["instance_id"] == "data\u2013\xfc"


@pytest.mark.parametrize(
    "args",
    [["up", b"\xff"], ["status", b"\xff"], ["update", b"\xff=up"], ["logs", b"\xff"], ["watch", b"\xff"]],
    ids=lambda args: str(args[0]),
)
def test_an_id_that_is_no_text_is_refused(daemon: FakeDaemon, start: Start, args: list[Any]) -> None:
    code, out, err = finish(start(*args))
    assert (code, out) == (2, "")
    assert "cannot use '\\udcff': the text is not valid UTF-8" in err


def test_a_bug_prints_no_traceback_by_default(start: Start, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import hostmanager_client.address as a\n"
        "def broken(*_):\n    raise RuntimeError('boom')\n"
        "a.default_address = broken\n"
    )
    code, _, err = finish(start("status", env={"PYTHONPATH": str(tmp_path)}))
    assert code == 70
    assert "HOSTMANAGER_DEBUG=1" in err
    process = start("status", env={"PYTHONPATH": str(tmp_path), "HOSTMANAGER_DEBUG": "1"})
    assert "Traceback" in process.communicate(timeout=60)[1]


def test_the_screen_of_watch_on_a_terminal_of_unknown_size(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    controller, terminal = pty.openpty()  # 0 columns, 0 lines
    env = {"TERM": "xterm", "COLUMNS": "140", "LINES": "30"}
    process = start("watch", stdout=terminal, stdin=terminal, env=env)
    os.close(terminal)
    shown = bytearray()
    while b"FakeData" not in shown or b"\x1b[30;1H" not in shown:  # the last line
        shown.extend(os.read(controller, 65536))
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # until the command has closed the terminal
        while True:
            os.read(controller, 65536)
    assert finish(process)[0] == 130
    os.close(controller)


@pytest.mark.parametrize(
    ("answer", "args", "code", "reloaded"),
    [("n\n", (), 1, False), ("y\n", (), 0, True), ("", ("--yes",), 0, True)],
)
def test_a_reload_on_a_terminal_asks_before_it_stops_what_runs(
    daemon: FakeDaemon, start: Start, answer: str, args: tuple[str, ...], code: int, *, reloaded: bool
) -> None:
    daemon.config_changes.append(
        pb.InstanceChange(instance_id="data1", kind=pb.InstanceChange.KIND_REMOVED, stops=True)
    )
    controller, terminal = pty.openpty()
    process = start("reload", *args, stdin=terminal, stdout=terminal, stderr=terminal, env={"TERM": "xterm"})
    os.close(terminal)
    os.write(controller, answer.encode())
    text = b""
    try:
        while piece := os.read(controller, 65536):
            text += piece
    except OSError:  # the terminal is closed at the other end
        pass
    os.close(controller)
    assert process.wait(60) == code
    updates = [request for request in daemon.requests if isinstance(request, pb.UpdateRequest)]
    assert any(not update.validate_only for update in updates) is reloaded
    asked = b"data1: gone, WILL BE STOPPED" in text and b"stop 1 instance that runs?" in text
    assert asked is bool(answer)
    assert (b"nothing was changed" in text) is not reloaded


def test_no_color_is_respected_on_a_terminal(daemon: FakeDaemon, start: Start) -> None:
    daemon.add("data1")
    outputs = []
    for env in ({}, {"NO_COLOR": "1"}):
        controller, terminal = pty.openpty()
        process = start("status", stdout=terminal, env={"TERM": "xterm", **env})
        os.close(terminal)
        text = b""
        try:
            while piece := os.read(controller, 65536):
                text += piece
        except OSError:  # the terminal is closed at the other end
            pass
        process.wait(60)
        os.close(controller)
        outputs.append(text)
    assert b"\x1b[" in outputs[0]
    assert b"\x1b[" not in outputs[1]
    assert b"data1" in outputs[1]


def test_status_loads_only_needed_modules(daemon: FakeDaemon, socket: Path) -> None:
    daemon.add("data1")
    program = (
        "import sys\n"
        "from hostmanager_client.cli import watch\n"  # a watch without a screen needs none of urwid
        "from hostmanager_client.cli.app import cli\n"
        "try:\n    cli.main(['status'], standalone_mode=False)\n"
        "finally:\n    print('\\n'.join(sorted(sys.modules)))\n"
    )
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(socket)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "hostmanager_client.sync" in loaded
    # grpc imports asyncio and grpc.aio; this package must not add to these imports.
    unwanted = {
        "rich",
        "urwid",
        "hostmanager_server",
        "hostmanager_client.aio",
        "importlib.metadata",
        "google.rpc",
        "difflib",
    }
    assert not unwanted & loaded


def test_status_prints_no_noise_of_grpc(daemon: FakeDaemon, start: Start) -> None:
    daemon.stop()
    _, _, err = finish(start("status"))
    assert err.count("\n") == 1


def test_one_watch_is_one_stream(daemon: FakeDaemon, start: Start) -> None:
    process = start("watch")
    line_of(process)
    until(lambda: daemon.streams == 1)
    process.kill()
    daemon.wait_until(lambda: daemon.streams == 0)


def test_a_call_cut_short_while_grpc_makes_it_prints_no_traceback() -> None:
    program = """
import hostmanager_client.cli as cli, sys
class _MultiThreadedRendezvous:
    def __del__(self):
        self._state
class Other:
    def __del__(self):
        self._state
sys.unraisablehook = cli._hide_half_made_call
_MultiThreadedRendezvous()
print("shown next", file=sys.stderr, flush=True)
Other()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, _, rest = done.stderr.partition("shown next")
    assert first == ""
    assert "Other" in rest
