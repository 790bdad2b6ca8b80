"""A daemon that was given a cgroup knows who hides in every other way."""

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
    """A site whose agent has let a process escape, which says its pid in the file `escaped`."""
    command = [sys.executable, "-c", escape(), "escaped"]
    site.write([{"instance-id": "a", "command": command, "working-dir": str(site.folder)}])
    return site


def escaped(site: Site) -> int:
    file = site.folder / "escaped"
    wait_until(file.exists, "a process to escape")
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


def test_a_delegated_cgroup_is_used_unasked_and_its_runs_are_known_to_the_next_daemon(
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
    # Who was left was ended before the agent was started again.
    left = set(processes_in(cgroup))
    assert left == {second.pid, second.instance("a").process.pid, again}
    assert hidden not in left
    assert second.end() == 0
    assert groups_in(cgroup) == []


def test_a_cgroup_that_cannot_be_used_is_said_and_the_agents_run_without(site: Site) -> None:
    site.write([{"instance-id": "a", "command": ["sleep", "100000"]}])
    daemon = site.start("--cgroup", "/nowhere")
    daemon.wait_for("a", UP)
    assert daemon.log.read_text().count("cannot use the cgroup '/nowhere'") == 1
