"""Runs of hook commands: facts, bounds, and what they leave."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostmanager_server.core.spec import Hook
from hostmanager_server.drivers.exec.hook_command import HookOutcome, run_hook

from tests.waiting import wait_until

ENVIRONMENT = {"PATH": os.environ["PATH"], "INHERITED": "yes"}


@pytest.fixture
def stop() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def run(stop: int, *argv: str, timeout: float = 30.0, folder: str = "/", **facts: str) -> HookOutcome:
    return run_hook(Hook(argv, folder, "", timeout), facts, b'{"a": 1}\n', ENVIRONMENT, stop)


def test_the_facts_are_variables_and_standard_input_and_never_a_shell(stop: int, tmp_path: Path) -> None:
    script = (
        "import json, os, sys\n"
        "json.dump([sys.argv[1:], json.load(sys.stdin), dict(os.environ), os.getcwd()], open('out', 'w'))"
    )
    hostile = "$(touch marker); `touch marker` \n'\""
    outcome = run(stop, sys.executable, "-c", script, "$X", folder=str(tmp_path), HOSTMANAGER_MESSAGE=hostile)
    assert outcome.problem == ""
    argv, document, env, folder = json.loads((tmp_path / "out").read_text())
    assert (argv, document, folder) == (["$X"], {"a": 1}, str(tmp_path))
    assert (env["HOSTMANAGER_MESSAGE"], env["INHERITED"]) == (hostile, "yes")
    assert "HOSTMANAGER_RUN" not in env
    assert not (tmp_path / "marker").exists()


def test_a_failure_says_how_the_command_ended_and_what_it_said(stop: int) -> None:
    assert run(stop, "sh", "-c", "echo no mail here >&2; exit 3").problem == (
        "'sh' ended with code 3: \"no mail here\""
    )
    assert "was killed by SIGTERM" in run(stop, "sh", "-c", "kill -TERM $$").problem
    assert "is not found in PATH" in run(stop, "no-such-program").problem
    assert "does not exist" in run(stop, "sh", folder="/nonexistent").problem
    assert run(stop, "cat").problem == ""


def test_much_output_neither_blocks_nor_fills_the_memory(stop: int) -> None:
    outcome = run(stop, sys.executable, "-c", "print('x' * 10_000_000 + ' the end'); raise SystemExit(1)")
    assert outcome.problem.endswith('the end"')
    assert len(outcome.problem) < 400


def test_a_hook_is_killed_after_its_time_with_all_that_it_started(stop: int, tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/pid; sleep 600"
    assert "was killed after 0.5 s" in run(stop, "sh", "-c", script, timeout=0.5).problem
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(child), "the end of the child")


def test_what_a_hook_leaves_in_its_group_ends_with_it(stop: int, tmp_path: Path) -> None:
    assert run(stop, "sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid").problem == ""
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(child), "the end of the child")


def test_the_end_of_the_daemon_ends_a_running_hook(stop: int) -> None:
    outcomes: list[HookOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(stop, "sleep", "600")))
    thread.start()
    os.eventfd_write(stop, 1)
    thread.join(30)
    assert "as the daemon ends" in outcomes[0].problem


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
