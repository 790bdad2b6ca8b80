"""A daemon with a cgroup finds processes that hide from every other means."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.cgroups import escape, groups_in, processes_in
from tests.e2e.daemon import COMMAND, Site
from tests.waiting import wait_until

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN


@pytest.fixture
def escaping(site: Site) -> Site:
    """Return a site with an agent that starts a hidden process.

    The hidden process writes its pid to the file `escaped`.
    """
    command = [sys.executable, "-c", escape(), "escaped"]
    site.write([{"instance-id": "a", "command": command, "working-dir": str(site.folder)}])
    return site


def escaped(site: Site) -> int:
    file = site.folder / "escaped"
    wait_until(file.exists, "the pid of the hidden process")
    return int(file.read_text())


def test_down_means_that_a_hidden_process_is_gone_too(escaping: Site, cgroup: Path) -> None:
    daemon = escaping.start("--cgroup", str(cgroup))
    pid = escaped(escaping)
    assert pid in processes_in(cgroup)
    daemon.update(a="down")
    daemon.wait_for("a", DOWN)
    assert processes_in(cgroup) == []
    daemon.update(a="up")
    daemon.wait_for("a", UP)
    assert daemon.end() == 0
    assert processes_in(cgroup) == []
    assert groups_in(cgroup) == []


def test_a_delegated_cgroup_is_used_without_a_flag_and_the_next_daemon_finds_its_runs(
    escaping: Site, cgroup: Path
) -> None:
    inside = ("sh", "-c", f'echo 0 > {cgroup}/cgroup.procs; exec "$@"', "sh", COMMAND)
    os.setxattr(cgroup, "trusted.delegate", b"1")
    first = escaping.start(program=inside)
    agent, hidden = first.instance("a").process.pid, escaped(escaping)
    first.end(signal.SIGKILL)
    os.kill(agent, signal.SIGKILL)
    wait_until(lambda: processes_in(cgroup) == [hidden], "the agent to be gone")
    (escaping.folder / "escaped").unlink()
    second = escaping.start(program=inside)
    again = escaped(escaping)
    second.wait_for("a", UP)
    # The daemon ended the hidden process of the first run before the second run.
    members = set(processes_in(cgroup))
    assert members == {second.pid, second.instance("a").process.pid, again}
    assert hidden not in members
    assert second.end() == 0
    assert groups_in(cgroup) == []


def test_an_unusable_cgroup_is_logged_once_and_the_agents_run_without(site: Site) -> None:
    site.write([{"instance-id": "a", "command": ["sleep", "100000"]}])
    daemon = site.start("--cgroup", "/nowhere")
    daemon.wait_for("a", UP)
    assert daemon.log.read_text().count("cannot use the cgroup '/nowhere'") == 1
