"""Commands that name instances by pattern, class and label, and those that are failing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import DOWN, UP, HostManagerClient, InvalidRequest, Selector
from hostmanager_client.cli.selection import resolve_ids
from hostmanager_client.cli.suggest import close_words

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


@pytest.fixture
def lab(daemon: FakeDaemon) -> FakeDaemon:
    """Return a daemon with three instances; `cam2` is failing."""
    daemon.add("cam1", full_name="Camera:cam1", labels={"rack": "3"})
    daemon.add("cam2", full_name="Camera:cam2", labels={"rack": "4"}, failing=True)
    daemon.add("thermo1", full_name="Thermo:thermo1", labels={"rack": "3", "cold": ""})
    daemon.happen("cam1 is up", "cam1")
    daemon.happen("cam2 failed", "cam2")
    return daemon


def ids_in(result: Result) -> list[str]:
    assert result.exit_code in (0, 7), result.stderr
    document: Any = json.loads(result.stdout)
    instances = document["instances"] if isinstance(document, dict) else document
    return [instance["instance_id"] for instance in instances]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["cam*"], ["cam1", "cam2"]),
        (["class:Thermo", "cam2"], ["cam2", "thermo1"]),
        (["label:rack=3"], ["cam1", "thermo1"]),
        (["@cold"], ["thermo1"]),
        (["--failing"], ["cam2"]),
        (["--failing", "@rack=3"], []),
    ],
)
def test_status_and_show_take_selectors(lab: FakeDaemon, run: Run, words: list[str], ids: list[str]) -> None:
    assert ids_in(run("status", "--json", *words)) == ids
    assert ids_in(run("show", "--json", *words)) == ids


def test_show_prints_one_instance_after_another(lab: FakeDaemon, run: Run) -> None:
    result = run("show", "cam*")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("instance:")] == ["cam1", "cam2"]
    assert "" in lines
    assert "labels: rack=4" in " ".join(result.stdout.split())
    assert json.loads(run("show", "cam1", "--json").stdout)["labels"] == {"rack": "3"}


def test_up_and_down_change_what_a_selector_names(lab: FakeDaemon, run: Run) -> None:
    result = run("down", "cam*", "thermo1")
    assert result.stdout.splitlines() == [
        "cam1: target down",
        "cam2: target down",
        "thermo1: target down",
    ]
    result = run("update", "@rack=3=up", "cam1=down")
    assert result.stdout.splitlines() == ["cam1: target down", "thermo1: target up"]
    assert lab.instances["cam2"].target_state == pb.TARGET_STATE_DOWN
    assert run("up", "--failing").stdout == "cam2: target up\n"


def test_restart_takes_selectors_and_failing(lab: FakeDaemon, run: Run) -> None:
    assert run("restart", "@rack=3").stdout.splitlines() == ["cam1: restarting", "thermo1: restarting"]
    assert run("restart", "--failing").stdout == "cam2: restarting\n"
    lab.change("cam2", failing=False)
    result = run("restart", "--failing")
    assert (result.exit_code, result.stdout) == (0, "no instance is failing\n")
    result = run("down", "--all", "--failing")
    assert (result.exit_code, result.stdout) == (0, "no instance is failing\n")


@pytest.mark.parametrize("command", ["status", "show", "up", "restart", "watch"])
def test_a_selector_that_matches_nothing_is_an_error(lab: FakeDaemon, run: Run, command: str) -> None:
    result = run(command, "disk*")
    assert result.exit_code == 4
    assert "no instance on this host matches 'disk*'; known: cam1, cam2, thermo1" in result.stderr
    result = run(command, "class:Disk")
    assert result.exit_code == 4
    assert "(classes: Camera, Thermo)" in result.stderr
    assert "known" not in result.stderr


def test_events_of_a_selector_and_of_failing_instances(lab: FakeDaemon, run: Run) -> None:
    assert "cam2 failed" in run("events", "@rack=4").stdout
    assert "cam1" not in run("events", "@rack=4").stdout
    assert "cam1" not in run("events", "--failing").stdout
    lab.change("cam2", failing=False)
    result = run("events", "--failing")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no instance is failing\n")


def test_status_tells_by_its_code_that_something_is_wrong(lab: FakeDaemon, run: Run) -> None:
    assert run("status").exit_code == 0
    assert run("status", "--check").exit_code == 7
    assert run("status", "--failing").exit_code == 7
    assert run("status", "--check", "cam1").exit_code == 0
    lab.change("cam2", failing=False)
    assert run("status", "--check").exit_code == 0
    quiet = run("status", "--failing")
    assert quiet.exit_code == 0
    assert quiet.stdout.splitlines()[0] == "no instance is failing"
    lab.problems.append(pb.ConfigProblem(severity=pb.SEVERITY_ERROR, message="no such key"))
    assert run("status", "--check", "--json").exit_code == 7
    assert run("status", "--check", "cam1").exit_code == 0
    lab.problems.clear()
    lab.manager_state = pb.MANAGER_STATE_STOPPED
    assert run("status", "--check").exit_code == 7


@pytest.mark.parametrize("words", [["up"], ["up", "cam1", "--all"], ["restart"], ["show"]])
def test_a_command_without_instances_is_a_usage_error(lab: FakeDaemon, run: Run, words: list[str]) -> None:
    assert run(*words).exit_code == 2


# --- the client


def test_the_client_takes_selectors_wherever_it_takes_ids(lab: FakeDaemon, client: Any) -> None:
    listed = client.list_instances(["thermo1", Selector("cam*")])
    assert [i.instance_id for i in listed.instances] == ["cam1", "cam2", "thermo1"]
    assert [*client.get_state(failing=True).instances] == ["cam2"]
    answer = client.update({Selector("@rack=3"): DOWN, "thermo1": UP})
    assert {g.instance_id: g.target_state for g in answer.generations} == {"cam1": DOWN, "thermo1": UP}
    answer = client.restart([Selector("thermo*")])
    assert [g.instance_id for g in answer.generations] == ["thermo1"]
    assert [e.instance_id for e in client.list_events([Selector("cam1")]).events] == ["cam1"]
    updates = client.watch([Selector("class:Camera")], failing=True)
    assert [*next(updates).state.instances] == ["cam2"]


def test_a_plain_text_is_never_a_pattern(lab: FakeDaemon, client: Any) -> None:
    client.update({"cam1": DOWN})
    assert lab.requests[-1].requests[0].instance_id == "cam1"  # type: ignore[attr-defined]  # an UpdateRequest
    with pytest.raises(InvalidRequest, match="write"):
        client.list_instances("cam*")


def test_words_are_resolved_in_their_order(lab: FakeDaemon) -> None:
    with HostManagerClient(str(lab.socket)) as client:
        check_order(client)


def check_order(client: HostManagerClient) -> None:
    assert resolve_ids(client, ["thermo1", "cam*", "cam1"]) == ("thermo1", "cam1", "cam2")
    assert resolve_ids(client, ["nosuch"]) == ("nosuch",)
    assert resolve_ids(client, []) == ("cam1", "cam2", "thermo1")
    assert resolve_ids(client, [], failing=True) == ("cam2",)


# --- suggestions


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("data", [f"data{n}" for n in (10, 2, 1, 20)], ["data1", "data2", "data10"]),
        ("termo1", ["thermo1", "thermo2", "thermo10"], ["thermo1", "thermo10"]),
        ("Cam1", ["cam2", "cam1"], ["cam1"]),
        ("stat", ["start", "status", "state1"], ["state1", "status", "start"]),
        ("xyz", ["cam1"], []),
        ("", ["cam1"], []),
    ],
)
def test_suggestions_begin_with_the_most_likely(word: str, known: list[str], expected: list[str]) -> None:
    assert close_words(word, known) == expected
