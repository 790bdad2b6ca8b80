"""Readiness probes against real listeners and commands."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Gone, Ready, RunKey, StartFailed
from hostmanager_server.core.spec import CommandProbe, HttpProbe, ReadinessProbe, TcpProbe
from hostmanager_server.linux.pidfds import read_stat

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)


class ProbedSite:
    """An HTTP server that answers with `code`."""

    def __init__(self) -> None:
        self.code = 503
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                self.send_response(site.code)
                self.end_headers()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[ProbedSite]:
    site = ProbedSite()
    yield site
    site.close()


def launch(real: ProcessHarness, check: TcpProbe | HttpProbe | CommandProbe, timeout: float = 10.0) -> None:
    probe = ReadinessProbe(check, interval=0.01, timeout=timeout)
    real.driver.launch(A, replace(real.command("a", "sleep", "1000"), ready=probe))


def is_ready(real: ProcessHarness) -> bool:
    return any(isinstance(event, Ready) and event.run == A for event in real.events)


def stop(real: ProcessHarness) -> None:
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: any(isinstance(event, Gone) for event in real.events))


@pytest.mark.parametrize("code", [200, 204, 302, 399])
def test_an_http_probe_succeeds_from_200_to_399(real: ProcessHarness, site: ProbedSite, code: int) -> None:
    launch(real, HttpProbe(f"http://127.0.0.1:{site.server.server_port}/health?deep=1"))
    real.wait_for(lambda: len(site.asked) > 1)
    assert not is_ready(real)
    site.code = code
    real.wait_for(lambda: is_ready(real))
    assert set(site.asked) == {"/health?deep=1"}
    stop(real)


def test_a_probe_does_not_run_again_after_success(real: ProcessHarness, site: ProbedSite) -> None:
    site.code = 200
    launch(real, HttpProbe(f"http://127.0.0.1:{site.server.server_port}"))
    real.wait_for(lambda: is_ready(real))
    real.run(real.script("b", "sleep 0.05"))
    assert site.asked == ["/"]
    stop(real)


def test_an_http_probe_of_another_protocol_goes_on(real: ProcessHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        launch(real, HttpProbe(f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        for answer in (b"", b"200 OK\r\n", b"HTTP/1.1 ok\r\n", b"HTTP/1.1 500 200\r\n"):
            connection, _ = listener.accept()
            connection.sendall(answer)
            connection.close()
        real.poller.turn(0.01)
        assert not is_ready(real)
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.0 200\r\n")
        connection.close()
        real.wait_for(lambda: is_ready(real))
    stop(real)


def test_a_command_probe_runs_in_the_agent_s_surroundings(real: ProcessHarness) -> None:
    text = f'echo "$COLOUR $PWD" > {real.directory}/answer'
    spec = real.command("a", "sleep", "1000")
    assert spec.process is not None
    process = replace(spec.process, env=(("COLOUR", "blue"),), working_dir=str(real.directory))
    probe = ReadinessProbe(CommandProbe(("sh", "-c", text)), interval=0.01, timeout=10.0)
    real.driver.launch(A, replace(spec, process=process, ready=probe))
    real.wait_for(lambda: is_ready(real))
    assert Path(real.directory, "answer").read_text() == f"blue {real.directory}\n"
    stop(real)


def test_a_command_probe_repeats_until_it_exits_0(real: ProcessHarness) -> None:
    launch(real, CommandProbe(("sh", "-c", f"echo x >> {real.directory}/n; test -e {real.directory}/go")))
    tries = real.directory / "n"
    real.wait_for(lambda: tries.exists() and len(tries.read_text().split()) > 2)
    assert not is_ready(real)
    (real.directory / "go").touch()
    real.wait_for(lambda: is_ready(real))
    stop(real)


@pytest.mark.parametrize("end", ["timeout", "stop", "close"])
def test_a_command_probe_does_not_outlive_its_time_or_its_run(real: ProcessHarness, end: str) -> None:
    pid_file = real.directory / "pid"
    text = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 1000"
    launch(real, CommandProbe(("sh", "-c", text)), timeout=0.1 if end == "timeout" else 1_000.0)
    real.wait_for(pid_file.exists)
    pid = int(pid_file.read_text())
    if end == "stop":
        stop(real)
    elif end == "close":
        real.driver.close()
    real.wait_for(lambda: read_stat(pid) is None)
    assert not is_ready(real)
    if end == "timeout":
        stop(real)


# Lets a process of another session trace it (PTRACE_SEIZE is 0x4206): the parent cannot reap it.
IS_TRACED = """
import ctypes, os, sys, time
main, (read_end, write_end) = os.getpid(), os.pipe()
if not os.fork():
    os.setsid()
    refused = ctypes.CDLL(None).ptrace(0x4206, main, None, None)
    with open(sys.argv[1], "a") as file:
        file.write("refused " if refused else f"{os.getpid()} ")
    os.write(write_end, b"x")
    time.sleep(1000)
os.read(read_end, 1)
os._exit(int(not os.path.exists(sys.argv[2])))
"""


def test_a_debugger_that_keeps_a_probe_s_command_stops_no_probe(real: ProcessHarness) -> None:
    tracers, go = real.directory / "tracers", real.directory / "go"
    launch(real, CommandProbe((sys.executable, "-c", IS_TRACED, str(tracers), str(go))))
    real.wait_for(lambda: tracers.exists() and len(tracers.read_text().split()) > 1)
    if "refused" in tracers.read_text():
        pytest.skip("this user may not trace")
    go.touch()
    real.wait_for(lambda: is_ready(real))
    stop(real)
    for pid in tracers.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_a_probe_command_that_does_not_exist_fails_the_start(real: ProcessHarness) -> None:
    launch(real, CommandProbe(("no-such-check",)))
    failed = real.events[0]
    assert isinstance(failed, StartFailed)
    assert "its readiness command cannot be run: its program 'no-such-check' is not found" in failed.why


def probing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "probes"]


def test_without_probes_there_is_no_thread(real: ProcessHarness) -> None:
    real.run(real.command("b", "true"))
    assert not probing()


def test_closing_ends_the_thread(real: ProcessHarness) -> None:
    launch(real, TcpProbe("127.0.0.1", 1))
    assert len(probing()) == 1
    stop(real)
    real.driver.close()
    assert not probing()
