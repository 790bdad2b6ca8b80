"""JSON of the command line: one shape for all errors, snake_case keys, words that the client takes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import DOWN, UP, HostManagerError, InvalidRequest, errors
from hostmanager_client.cli import BUG, app, main
from hostmanager_client.cli.brief import TRANSPORT_VARIABLE

from tests.client.cli_runner import TRANSPORTS
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., tuple[int, str, str]]
NOTHING_RAN = 125  # of `run`, whose other codes are those of the agent
SNAKE_CASE = "[a-z][a-z0-9_]*"
WITHOUT_DAEMON = {"init", "config", "systemd", "serve", "demo", "completion"}
FREE_KEYS = {
    "config_parse_status",
    "env",
    "hosts",
    "limits",
    "labels",
    "metadata",
    "new_tags",
    "depends_on",
    "explicit_env",
}

# A command line that works, for each command of the client; a new command needs an entry.
WORKING: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "show": ("show", "data1"),
    "why": ("why",),
    "signal": ("signal", "data1", "HUP"),
    "up": ("up", "data1", "--wait"),
    "down": ("down", "data1"),
    "restart": ("restart", "data1"),
    "hold": ("hold", "data1"),
    "release": ("release", "data1"),
    "run": ("run", "data1"),
    "top": ("top", "--once"),
    "update": ("update", "data1=up"),
    "reload": ("reload",),
    "logs": ("logs", "data1"),
    "events": ("events",),
    "pull": ("pull",),
    "orphans": ("orphans", "list"),
    "manager": ("manager", "status"),
    "upgrade": ("upgrade", "--check"),
    "die": ("die", "--yes"),
}


@pytest.fixture(params=TRANSPORTS)
def run(
    request: pytest.FixtureRequest, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:  # fmt: skip
    """Return a function that runs the whole program, the last error boundary included."""
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(daemon.socket))
    monkeypatch.setenv(TRANSPORT_VARIABLE, request.param)
    monkeypatch.setattr("hostmanager_client.cli.output.protect_terminals", lambda: None)
    monkeypatch.setattr("hostmanager_client.cli._leave", sys.exit)  # a short command ends its process at once

    def invoke(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hostmanager", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return invoke


def the_error(err: str) -> dict[str, Any]:
    """Return the error of a document of the one shape."""
    document = json.loads(err)
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert {"kind", "message", "reason", "violations"} <= set(error) <= {
        "kind", "message", "reason", "violations", "unreached"
    }  # fmt: skip
    assert re.fullmatch("[A-Z][A-Za-z]+", error["kind"])
    assert re.fullmatch("[A-Z][A-Z_]+", error["reason"])
    assert error["message"]
    assert all(set(violation) == {"field", "description"} for violation in error["violations"])
    return error


def keys(value: Any, *, free: bool = False) -> Iterator[str]:
    """Yield all keys of a document, without those that are names of the site."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not free:
                yield key
            yield from keys(inner, free=key in FREE_KEYS)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def documents(out: str) -> list[Any]:
    try:
        return [json.loads(out)]
    except ValueError:
        return [json.loads(line) for line in out.splitlines()]


def all_commands() -> list[str]:
    return app.cli.list_commands(click.Context(app.cli))


@pytest.mark.parametrize("command", sorted({*all_commands()} - WITHOUT_DAEMON - {"watch"}))
def test_every_command_prints_documents_with_snake_case_keys(
    daemon: FakeDaemon, run: Run, command: str
) -> None:
    daemon.add("data1")
    daemon.write("data1", "line", at=1e9)
    daemon.instances["data1"].last_exit.code = 0  # of `run`
    daemon.happen("started", "data1", reason="Launching")
    daemon.pulls.append(pb.DockerPullResponse(result=pb.PullResult()))
    code, out, err = run(*WORKING[command], "--json")
    assert (code, err) == (0, "")
    found = documents(out)
    assert found
    named = [key for document in found for key in keys(document)]
    assert [key for key in named if not re.fullmatch(SNAKE_CASE, key)] == []


def test_the_commands_of_the_server_print_snake_case_keys(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("hosts: {localhost: {agent-instances: [{instance-id: a, agent-class: X}]}}")
    code, out, _ = run("config", "check", str(site), "--json")
    assert code in (0, 1)
    assert all(re.fullmatch(SNAKE_CASE, key) for key in keys(json.loads(out)))


@pytest.mark.parametrize("command", sorted(all_commands()))
def test_a_wrong_command_line_is_an_error_of_the_one_shape(run: Run, command: str) -> None:
    for words in ((command, "--nonsense", "--json"), ("--json", command, "--nonsense")):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        error = the_error(err)
        assert (error["kind"], error["reason"]) == ("UsageError", "WRONG_COMMAND_LINE")
        assert "--nonsense" in error["message"]


@pytest.mark.parametrize(
    "args",
    [
        ("statsu",), (), ("up",), ("update", "data1=sideways"), ("logs", "data1", "-n", "x"),
        ("signal", "a"),
        ("--timeout", "soon", "status"), ("status", "--address", "nonsense:"), ("watch", "\udcff"),
    ],
    ids=str,
)  # fmt: skip
def test_every_mistake_in_a_command_line_has_the_one_shape(run: Run, args: tuple[str, ...]) -> None:
    code, out, err = run(*args, "--json")
    assert (code, out) == (2, "")
    the_error(err)


@pytest.mark.parametrize("command", sorted({*all_commands()} - WITHOUT_DAEMON))
def test_an_error_of_the_daemon_has_the_one_shape(daemon: FakeDaemon, run: Run, command: str) -> None:
    daemon.add("data1")
    daemon.fail_next = (grpc.StatusCode.FAILED_PRECONDITION, "not now", "NOT_NOW", [("a.b", "bad")])
    code, out, err = run(*WORKING.get(command, (command,)), "--json")
    assert (code, out) == (NOTHING_RAN if command == "run" else 5, "")
    error = the_error(err)
    assert (error["kind"], error["reason"]) == ("PreconditionFailed", "NOT_NOW")
    assert error["violations"] == [{"field": "a.b", "description": "bad"}]


@pytest.mark.parametrize("command", sorted({*all_commands()} - WITHOUT_DAEMON))
def test_a_missing_daemon_is_an_error_with_a_reason(run: Run, command: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.sock")
    code, out, err = run(*WORKING.get(command, (command,)), "--json", "--address", missing)
    assert (code, out) == (NOTHING_RAN if command == "run" else 3, "")
    assert the_error(err)["reason"] == "UNREACHABLE"


def test_a_bug_has_the_one_shape(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("hostmanager_client.cli.cli_session.default_address", broken)
    code, out, err = run("status", "--json")
    assert (code, out) == (BUG, "")
    assert the_error(err)["kind"] == "Bug"


def test_an_unreached_target_names_its_instances(daemon: FakeDaemon, run: Run) -> None:
    daemon.add("data1", next_action=pb.NEXT_ACTION_START_AT, reason="BackingOff", message="it ended")
    daemon.stubborn.add("data1")
    code, _, err = run("up", "data1", "--wait", "--timeout", "0.3", "--json")
    assert code == 1
    error = the_error(err)
    assert error["reason"] == "TARGET_NOT_REACHED"
    assert set(error["unreached"][0]) == {"instance_id", "state", "reason", "message", "hopeless"}


def test_every_error_of_the_client_has_a_reason() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HostManagerError)
    ]
    reasons = [kind.REASON for kind in kinds]
    assert all(re.fullmatch("[A-Z][A-Z_]+", reason) for reason in reasons)
    assert len(set(reasons)) == len(kinds)
    assert HostManagerError("x").reason
    assert InvalidRequest("x", reason="OWN").reason == "OWN"


# --- words in, words out


def test_the_client_takes_the_words_of_the_json(daemon: FakeDaemon, client: Any) -> None:
    for name in ("cryo", "data1", "data2"):
        daemon.add(name)
    answer = client.update({"all": "up", "cryo": "down", "data2": DOWN})
    states = {each.instance_id: each.target_state for each in client.list_instances().instances}
    assert states == {"cryo": DOWN, "data1": UP, "data2": DOWN}
    generations = {each.instance_id: each.generation for each in answer.generations}
    client.wait_for(generations, targets={"cryo": "down", "data1": "up", "data2": DOWN}, timeout=30)
    client.update([("cryo", "up")])
    assert client.get_instance("cryo").target_state == UP


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cryo": "on"}, "cannot set the target of 'cryo' to 'on': the targets are 'up' and 'down'"),
        ({"cryo": "UP"}, "to 'UP'"),
        ({"cryo": True}, "to True"),
        ({"cryo": None}, "to None"),
        ({"cryo": 9}, "to 9"),
        ({"cryo": ["up"]}, r"to \['up'\]"),
        ({7: "up"}, "cannot set a target from"),
        (["cryo"], "cannot set a target from 'cryo'"),
        ("cryo=up", "cannot set targets from 'cryo=up'"),
    ],
)
def test_a_wrong_target_is_named(daemon: FakeDaemon, client: Any, changes: Any, message: str) -> None:
    daemon.add("cryo")
    with pytest.raises(InvalidRequest, match=message):
        client.update(changes)
    with pytest.raises(InvalidRequest, match=message):
        client.start_manager(changes)


def test_a_wait_for_an_unknown_word_is_refused(daemon: FakeDaemon, client: Any) -> None:
    with pytest.raises(InvalidRequest, match="cannot wait for 'cryo': its target 'on' is none of"):
        client.wait_for({"cryo": 1}, targets={"cryo": "on"})
