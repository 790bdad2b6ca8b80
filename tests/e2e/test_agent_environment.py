"""Variables of agents: inheritance across users, env-file, and secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon, Site, environment

UP = pb.NEXT_ACTION_UP
SECRET = "s3cr3t-value"


def write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o600)


def variables(daemon: Daemon, instance_id: str) -> dict[str, str]:
    """Return the variables that an agent was started with."""
    pid = daemon.wait_for(instance_id, UP).process.pid
    return dict(word.decode().split("=", 1) for word in environment(pid) if word)


def restart(daemon: Daemon, instance_id: str) -> None:
    daemon.update(**{instance_id: "down"})
    daemon.wait_for(instance_id, pb.NEXT_ACTION_DOWN)
    daemon.update(**{instance_id: "up"})
    daemon.wait_for(instance_id, UP)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may switch users")
def test_a_secret_of_the_daemon_does_not_reach_another_user(site: Site) -> None:
    site.environ = {**os.environ, "DAEMON_SECRET": SECRET}
    agent = {"command": ["sleep", "100000"]}
    other = {**agent, "user": "nobody", "working-dir": "/", "env-inherit": ["TEST_SITE"]}
    site.write([{"instance-id": "own", **agent}, {"instance-id": "other", **other}])
    daemon = site.start()
    assert variables(daemon, "own")["DAEMON_SECRET"] == SECRET
    found = variables(daemon, "other")
    assert SECRET not in found.values()
    assert found["OCS_CONFIG_DIR"] == str(site.folder)
    assert found["USER"] == "nobody"


def test_a_changed_file_of_variables_is_used_at_the_next_start_and_noticed_at_a_reload(site: Site) -> None:
    file = site.folder / "a.env"
    write(file, "TOKEN=one\n")
    site.write([{"instance-id": "a", "command": ["sleep", "100000"], "env-file": "a.env"}])
    daemon = site.start()
    assert variables(daemon, "a")["TOKEN"] == "one"

    write(file, "TOKEN=two\n")
    assert not daemon.instance("a").restart_required
    daemon.reload()
    assert daemon.instance("a").restart_required
    restart(daemon, "a")
    assert variables(daemon, "a")["TOKEN"] == "two"
    assert not daemon.instance("a").restart_required

    write(file, "TOKEN=three\n")
    restart(daemon, "a")  # without a reload
    assert variables(daemon, "a")["TOKEN"] == "three"
    assert not daemon.instance("a").restart_required
    daemon.reload()
    assert not daemon.instance("a").restart_required

    daemon.process.kill()
    daemon.process.wait()
    second = site.start()
    assert second.instance("a").process.adopted
    assert not second.instance("a").restart_required
    write(file, "TOKEN=four\n")
    second.process.kill()
    second.process.wait()
    assert site.start().instance("a").restart_required


def test_a_value_of_a_file_is_nowhere_but_in_the_agent(site: Site) -> None:
    write(site.folder / "a.env", f"TOKEN={SECRET}\n")
    site.write([{"instance-id": "a", "command": ["sleep", "100000"], "env-file": "a.env"}])
    daemon = site.start()
    assert variables(daemon, "a")["TOKEN"] == SECRET
    assert SECRET not in str(daemon.instance("a"))
    assert SECRET not in str(daemon.events())
    daemon.reload()
    for found in site.state_dir.rglob("*"):
        if found.is_file():
            assert SECRET.encode() not in found.read_bytes(), found
    assert SECRET not in daemon.log.read_text()


def test_an_agent_starts_once_its_file_is_there_without_a_reload(site: Site) -> None:
    backoff = {"policy": "always", "backoff": {"maximum": "200ms"}}
    site.write(
        [{"instance-id": "a", "command": ["sleep", "100000"], "env-file": "a.env", "restart": backoff}]
    )
    daemon = site.start()
    assert any("cannot read env-file" in problem.message for problem in daemon.events())
    write(site.folder / "a.env", "TOKEN=here\n")
    assert variables(daemon, "a")["TOKEN"] == "here"
