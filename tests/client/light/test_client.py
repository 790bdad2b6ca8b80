"""The light client over a socket: what it does when a daemon does not answer as usual."""

from __future__ import annotations

import socket as sockets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import DOWN, Address, DeadlineExceeded, ServerBug, Unreachable
from hostmanager_client.cli.text import style
from hostmanager_client.light.client import FullClientNeeded, LightClient
from hostmanager_client.light.hpack import encode_headers
from hostmanager_client.light.http2 import DATA, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame

from tests.client.fake_daemon import FakeDaemon

READY = frame(SETTINGS, 0, 0)
HEAD = frame(HEADERS, 4, 1, encode_headers([(b":status", b"200"), (b"content-type", b"application/grpc")]))
TAIL = frame(HEADERS, 5, 1, encode_headers([(b"grpc-status", b"0")]))
UNREADABLE = HEAD + frame(DATA, 0, 1, b"\0\0\0\0\x01\xff") + TAIL


class ScriptedServer:
    """A server that greets each client, reads one request, answers, and closes unless `silent`."""

    def __init__(self, path: Path) -> None:
        self.greeting = READY
        self.answer = b""
        self.silent = False
        self.requests = 0
        self.path = path
        self._over = threading.Event()
        self._listener = sockets.socket(sockets.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.greeting)
                received = b""
                while b"HostManagerService/" not in received:
                    piece = connection.recv(65_536)
                    if not piece:
                        break
                    received += piece
                else:
                    self.requests += 1
                    connection.sendall(self.answer)
                if self.silent:
                    self._over.wait(30)

    def stop(self) -> None:
        self._over.set()
        self._listener.shutdown(sockets.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)


@pytest.fixture
def server(socket: Path) -> Iterator[ScriptedServer]:
    server = ScriptedServer(socket)
    yield server
    server.stop()


def read(client: LightClient) -> Any:
    return client.get_status()


def change(client: LightClient) -> Any:
    return client.update({"data1": DOWN})


def call(server: ScriptedServer, work: Callable[[LightClient], Any], timeout: float = 20.0) -> Any:
    with closing(LightClient(Address(path=str(server.path)), timeout)) as client:
        return work(client)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"", Unreachable, "closed the connection. .* may have carried it out: check before you try again"),
        (frame(RST_STREAM, 0, 1, bytes(4)), Unreachable, "may have carried it out"),
        (b"garbage of another program", Unreachable, "may have carried it out"),
        (HEAD + frame(DATA, 0, 1, b"\1\0\0\0\0") + TAIL, Unreachable, "may have carried it out"),
        (UNREADABLE, ServerBug, "its answer is unreadable.* may have carried it out"),
    ],
    ids=["closed", "reset", "garbage", "compressed", "unreadable"],
)  # fmt: skip
def test_a_lost_change_is_reported_and_a_lost_read_is_left_to_the_full_client(
    server: ScriptedServer, answer: bytes, error: type[Exception], text: str
) -> None:
    server.answer = answer
    with pytest.raises(error, match=text):
        call(server, change)
    assert server.requests == 1, "the client must not repeat the change"
    with pytest.raises(FullClientNeeded):
        call(server, read)


@pytest.mark.parametrize(
    "answer", [frame(RST_STREAM, 0, 1, (7).to_bytes(4, "big")), frame(GOAWAY, 0, 0, bytes(8))]
)
def test_a_change_that_the_daemon_did_not_process_is_left_to_the_full_client(
    server: ScriptedServer, answer: bytes
) -> None:
    server.answer = answer
    with pytest.raises(FullClientNeeded):
        call(server, change)


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(GOAWAY, 0, 0, bytes(8))]
)
def test_nothing_is_sent_to_a_server_that_does_not_greet(server: ScriptedServer, greeting: bytes) -> None:
    server.greeting = greeting
    with pytest.raises(FullClientNeeded):
        call(server, change, 0.5)
    assert server.requests == 0


@pytest.mark.parametrize(
    ("work", "text"), [(read, "Try again, or allow"), (change, "may have carried it out")]
)
def test_a_missing_answer_is_reported_at_the_deadline(
    server: ScriptedServer, work: Callable[[LightClient], Any], text: str
) -> None:
    server.silent = True
    with pytest.raises(DeadlineExceeded, match=text):
        call(server, work, 0.3)


def test_an_absent_daemon_is_left_to_the_full_client(socket: Path) -> None:
    with closing(LightClient(Address(path=str(socket)))) as client, pytest.raises(FullClientNeeded):
        client.get_status()


def test_an_overloaded_daemon_is_left_to_the_full_client(daemon: FakeDaemon) -> None:
    daemon.fail_next = (grpc.StatusCode.CANCELLED, "overloaded", "", [])
    with closing(LightClient(Address(path=str(daemon.socket)))) as client, pytest.raises(FullClientNeeded):
        client.get_status()


def test_a_listing_of_many_pages_and_frames_is_complete(daemon: FakeDaemon) -> None:
    daemon.page_limit = 400
    for n in range(1000):
        daemon.add(f"data{n:04}", message="x" * 500)
    with closing(LightClient(Address(path=str(daemon.socket)))) as client:
        assert list(client.get_state().instances) == sorted(daemon.instances)


# Modules that a short command loads with its own: those of the interpreter itself are loaded before.
LIGHT = {"__future__", "_operator", "_socket", "gc", "time"}
PLAIN = ["status", "status data1", "up data1", "down --all", "restart data1", "manager status",
         "up data1 --timeout 5"]  # fmt: skip
# Errors, JSON and details need some more, such as `json` and `re`.
LARGE = {"click", "grpc", "google.protobuf", "typing", "dataclasses", "inspect", "pathlib", "socket"}
OTHER = [("status --json", 0), ("show data1", 0), ("show nosuch", 4)]


def loaded_modules(daemon: FakeDaemon, line: str) -> tuple[int, set[str]]:
    """Return the exit code of a command, and the top-level modules and packages that it loaded."""
    daemon.add("data1")
    program = (
        "from hostmanager_client.cli.output import protect_terminals; protect_terminals()\n"
        "from hostmanager_client.cli import brief\n"
        f"code = brief.run({['--address', str(daemon.socket), *line.split()]!r})\n"
        "print(code, *(sys.modules.keys() - before), file=sys.stderr)"
    )
    start = f"import os, sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules)"
    command = [sys.executable, "-S", "-c", f"{start}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize("line", PLAIN)
def test_a_short_command_loads_only_its_own_modules(daemon: FakeDaemon, line: str) -> None:
    code, modules = loaded_modules(daemon, line)
    assert code == 0
    assert {name for name in modules if not name.startswith("hostmanager")} <= LIGHT


def test_the_status_loads_no_module_of_other_commands(daemon: FakeDaemon) -> None:
    _, modules = loaded_modules(daemon, "status")
    assert not modules & {
        "hostmanager_client.cli.change",
        "hostmanager_client.cli.instance_text",
        "hostmanager_client.rpc_errors",
        "hostmanager_client.state",
    }


@pytest.mark.parametrize(("line", "exit_code"), OTHER)
def test_a_short_command_loads_no_large_module(daemon: FakeDaemon, line: str, exit_code: int) -> None:
    code, modules = loaded_modules(daemon, line)
    assert code == exit_code
    assert not modules & LARGE


def test_a_coloured_table_needs_no_expression() -> None:
    program = (
        "from hostmanager_client.cli.escape import StyleBounds, escape_keep_colours, without_styles\n"
        "text = '\\x1b[1mNAME\\x1b[0m\\n\\x1b[32mup\\x1b[0m\\n'\n"
        "assert StyleBounds().bound(escape_keep_colours(text)) == text\n"
        "assert without_styles(text) == 'NAME\\nup\\n'\n"
        "print('re' in sys.modules)"
    )
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_plain_style_is_the_style_of_click() -> None:
    for color in ("", "red", "green", "yellow"):
        for bold in (False, True):
            theirs = click.style("x", fg=color or None, bold=bold or None) if color or bold else "x"
            assert style("x", color, bold=bold) == theirs


def test_the_numbers_of_the_targets_are_those_of_the_contract() -> None:
    from hostmanager_client import calls

    assert (calls.UP, calls.DOWN) == (pb.TARGET_STATE_UP, pb.TARGET_STATE_DOWN)
