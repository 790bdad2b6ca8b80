"""The changes of a reload on the command line, against a fake daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import UP
from hostmanager_client.cli.app import cli

from tests.client.cli_runner import make_runner
from tests.client.fake_daemon import FakeDaemon

Run = Callable[..., Result]


@pytest.fixture
def run(socket: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("HOSTMANAGER_ADDRESS", str(socket))

    def invoke(*args: str) -> Result:
        return make_runner().invoke(cli, args, prog_name="hostmanager", catch_exceptions=False)

    return invoke


def checks(daemon: FakeDaemon) -> list[bool]:
    """Return for each update whether it only checks."""
    return [request.validate_only for request in daemon.requests if isinstance(request, pb.UpdateRequest)]


def four_changes(daemon: FakeDaemon) -> None:
    """Let the next reload change four instances, and stop two."""
    kinds = pb.InstanceChange
    daemon.config_changes += [
        kinds(instance_id="cryo", kind=kinds.KIND_REMOVED, stops=True),
        kinds(
            instance_id="data2",
            kind=kinds.KIND_REPLACED,
            stops=True,
            agent_class="FakeData",
            target_state=UP,
            keys=[pb.KeyChange(key="agent-class", before="FakeData", after="Data")],
        ),
        kinds(
            instance_id="data1",
            kind=kinds.KIND_CHANGED,
            restart_required=True,
            more_keys=3,
            keys=[
                pb.KeyChange(key="--setpoint", before="4.2", after="4.3"),
                pb.KeyChange(key="env KEY", before="***", after="***"),
                pb.KeyChange(key="env B", after="***"),
            ],
        ),
        kinds(
            instance_id="data3",
            kind=kinds.KIND_ADDED,
            message="cannot start: no command",
            agent_class="FakeData",
            target_state=UP,
        ),
    ]
    daemon.config_changes[0].start_time.GetCurrentTime()
    daemon.config_changes[0].start_time.seconds -= 3 * 86400


def test_a_dry_run_of_a_reload_shows_what_would_change(daemon: FakeDaemon, run: Run) -> None:
    four_changes(daemon)
    result = run("reload", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "site config checked: 4 instances would change, 2 would be stopped",
        "- cryo: gone, WILL BE STOPPED (up 3 d)",
        "~ data2: replaced: agent-class FakeData → Data, WILL BE STOPPED AND STARTED AGAIN if it runs",
        "~ data1: changed: --setpoint 4.2 → 4.3, env KEY changed, env B added, and 3 more; restart required",
        "+ data3: new, FakeData, target up; cannot start: no command",
    ]
    assert checks(daemon) == [True]


def test_a_reload_without_a_terminal_asks_nothing_and_says_what_it_did(daemon: FakeDaemon, run: Run) -> None:
    four_changes(daemon)
    lines = run("reload").stdout.splitlines()
    assert lines[0] == "site config read: 4 instances changed, 2 of them stopped"
    assert lines[1] == "- cryo: gone, being stopped (up 3 d)"
    assert checks(daemon) == [False]
    assert "- cryo: gone, being stopped (up 3 d)" in run("update", "--reload").stdout


def test_the_changes_of_a_reload_as_json(daemon: FakeDaemon, run: Run) -> None:
    four_changes(daemon)
    for args in (("reload", "--dry-run", "--json"), ("reload", "--json")):
        document = json.loads(run(*args).stdout)
        assert [(one["instance_id"], one["kind"], one["stops"]) for one in document["changes"]] == [
            ("cryo", "removed", True),
            ("data2", "replaced", True),
            ("data1", "changed", False),
            ("data3", "added", False),
        ]
        assert document["changes"][2]["keys"][0] == {"key": "--setpoint", "before": "4.2", "after": "4.3"}
        assert (document["stopping"], document["more_changes"]) == (2, 0)


def test_a_dry_run_has_nothing_to_wait_for(daemon: FakeDaemon, run: Run) -> None:
    assert run("reload", "--dry-run", "--wait").exit_code == 2
    assert not daemon.requests
