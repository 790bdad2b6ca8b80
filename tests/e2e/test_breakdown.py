"""The daemon after a bug, without its socket, and without enough file descriptors."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import COMMAND, Site

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN


def broken(statement: str) -> list[str]:
    """Return the daemon's program with `statement` as a bug."""
    code = f"""
import sys
def bug(*_, **__): raise KeyError("a bug")
from hostmanager_server.drivers.process.driver import ProcessDriver
from hostmanager_server.supervisor.reconciler import Reconciler
{statement}
from hostmanager_client.cli import main
sys.argv[0] = "hostmanager"
main()
"""
    return [sys.executable, "-c", code]


def agent(site: Site) -> None:
    site.write([{"instance-id": "a", "command": "sleep 1000"}])


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_bug_of_the_supervisor_during_shutdown_ends_the_daemon(site: Site) -> None:
    agent(site)
    daemon = site.start(program=broken("Reconciler._stop = bug"))
    pid = daemon.wait_for("a", UP).process.pid
    assert daemon.end(signal.SIGTERM) == 1
    assert alive(pid), "the agent must stay for the next daemon"
    assert site.start().wait_for("a", UP).process.pid == pid


def test_a_bug_of_the_driver_costs_one_stop_and_not_the_supervisor(site: Site) -> None:
    agent(site)
    once = "stop = ProcessDriver.stop; calls = []\n"
    once += "ProcessDriver.stop = lambda *a, **k: stop(*a, **k) if calls else (calls.append(1), bug())"
    daemon = site.start(program=broken(once))
    daemon.wait_for("a", UP)
    daemon.update(a="down")
    daemon.wait_for("a", DOWN)
    assert "StopFailed" in [event.reason for event in daemon.events("a")]


def test_a_daemon_that_cannot_listen_leaves_the_socket_of_the_other(site: Site) -> None:
    agent(site)
    first = site.start()
    inode = os.stat(site.socket).st_ino
    second = site.start("--state-dir", str(site.folder / "other"), wait=False)
    assert second.process.wait(30) == 1
    assert os.stat(site.socket).st_ino == inode
    first.wait_for("a", UP)


def test_a_file_that_is_no_socket_is_left_alone(site: Site) -> None:
    agent(site)
    precious = site.folder / "precious"
    precious.write_text("data")
    daemon = site.start("--listen", f"unix:{precious}", wait=False)
    assert daemon.process.wait(30) == 1
    assert precious.read_text() == "data"
    assert "move the file away" in daemon.log.read_text()


def limited(files: int) -> list[str | Path]:
    """Return the daemon's program under a limit on open files."""
    return ["prlimit", f"--nofile={files}:{files}", COMMAND]


def test_a_daemon_without_enough_descriptors_ends_and_loses_no_agent(site: Site) -> None:
    count = 60
    site.write([{"instance-id": f"a{number}", "command": "sleep 1000"} for number in range(count)])
    first = site.start()
    first.wait_for_all(UP)
    pids = {name: instance.process.pid for name, instance in first.instances().items()}
    first.end(signal.SIGKILL)
    poor = site.start(wait=False, program=limited(64))
    assert poor.process.wait(60) == 1
    log = poor.log.read_text()
    assert "cannot recover the processes of an earlier daemon" in log or "descriptors" in log
    assert "This is a bug" not in log
    third = site.start()
    third.wait_for_all(UP)
    assert {name: instance.process.pid for name, instance in third.instances().items()} == pids


def test_agents_have_the_limit_on_files_that_the_daemon_was_started_with(site: Site) -> None:
    site.write(
        [
            {"instance-id": "plain", "command": "sleep 1000"},
            {"instance-id": "own", "command": "sleep 1000", "limits": {"nofile": 77}},
        ]
    )
    daemon = site.start(program=["prlimit", "--nofile=200:4096", COMMAND])
    daemon.wait_for_all(UP)

    def limit(pid: int) -> tuple[int, int]:
        return resource.prlimit(pid, resource.RLIMIT_NOFILE)

    assert limit(daemon.pid) == (4096, 4096)
    assert limit(daemon.instance("plain").process.pid) == (200, 4096)
    assert limit(daemon.instance("own").process.pid) == (77, 77)
