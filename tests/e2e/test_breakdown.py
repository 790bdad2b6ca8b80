"""The daemon where something goes wrong that never should."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN


def broken(statement: str) -> list[str]:
    """The daemon's program with a bug put into it."""
    code = f"""
import sys
def bug(*_): raise KeyError("a bug")
from hostmanager_server.drivers.process import ProcessDriver
from hostmanager_server.supervisor.engine import Engine
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


def test_a_supervision_that_breaks_down_while_everything_is_brought_down_ends_the_daemon(site: Site) -> None:
    agent(site)
    daemon = site.start(program=broken("Engine._stop = bug"))
    pid = daemon.wait_for("a", UP).process.pid
    assert daemon.end(signal.SIGTERM) == 1
    assert alive(pid), "it is left to the next daemon"
    assert site.start().wait_for("a", UP).process.pid == pid


def test_a_bug_of_the_driver_costs_one_stop_and_not_the_supervision(site: Site) -> None:
    agent(site)
    once = "stop = ProcessDriver.stop; calls = []\n"
    once += "ProcessDriver.stop = lambda *a: stop(*a) if calls else (calls.append(1), bug())"
    daemon = site.start(program=broken(once))
    daemon.wait_for("a", UP)
    daemon.update(a="down")
    daemon.wait_for("a", DOWN)
    assert "StopFailed" in [event.reason for event in daemon.events("a")]


def test_a_daemon_that_cannot_listen_takes_nothing_away(site: Site) -> None:
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
    assert "move it away" in daemon.log.read_text()
