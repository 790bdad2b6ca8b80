"""The command `run`: output and exit codes, against a fake daemon."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb

from tests.client.fake_daemon import FakeDaemon
from tests.client.test_cli import run

__all__ = ["run"]  # a fixture

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("exit_", "code", "told"),
    [
        (pb.Exit(code=0), 0, ""),
        (pb.Exit(code=3, message="ended with code 3"), 3, ""),
        (pb.Exit(signal="SIGKILL", message="ended with signal SIGKILL"), 137, "ended with signal SIGKILL"),
        (pb.Exit(signal="SIG35", message="ended with signal SIG35"), 163, "ended with signal SIG35"),
        (pb.Exit(message="ended with status unknown"), 125, "ended with status unknown"),
        (None, 125, "no such program"),
    ],
)
def test_the_exit_code_is_that_of_the_agent(
    daemon: FakeDaemon, run: Run, exit_: pb.Exit | None, code: int, told: str
) -> None:
    daemon.add("data1", last_exit=exit_)
    result = run("run", "data1", "--", "--full", "-x")
    assert result.exit_code == code
    assert result.stdout == "done --full -x\n"
    assert "data1: waiting for db to be up\n" in result.stderr
    assert told in result.stderr
    assert daemon.requests[-1] == pb.RunRequest(instance="data1", arguments=["--full", "-x"])


def test_a_run_as_json_is_a_document_a_line(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", last_exit=pb.Exit(code=3))
    result = run("run", "data1", "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert documents[0]["instance_id"] == "data1"
    assert documents[2]["lines"][0]["text"] == "done "
    assert (documents[-1]["ended"], documents[-1]["exit"]["code"], result.exit_code) == (True, 3, 3)


def test_what_cannot_run_exits_125(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1")
    result = run("run", "nosuch")
    assert result.exit_code == 125
    assert "did you mean" in result.stderr or "known: data1" in result.stderr
    assert run("run").exit_code == 2
