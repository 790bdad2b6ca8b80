"""Orphans that agents leave: they end with their run, and none stays a zombie."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_server.linux.pidfds import read_stat

from tests.e2e.daemon import COMMAND, Daemon, Site
from tests.e2e.test_upgrade import epoch, wait_upgraded, zombies
from tests.waiting import wait_until

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN

# Leaves a process in another session, without descriptors and environment, and notes its pid. Ends soon, so
# that each restart leaves one more.
LEAVES = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 1024)
    file = os.open("left", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    os.write(file, b"%d\\n" % os.getpid())
    os.execve("/bin/sleep", ["sleep", "1000"], {})
while not os.path.exists("left"):
    time.sleep(0.01)
time.sleep(float(sys.argv[1]))
sys.exit(1)  # code 0 would look like a program that puts itself into the background
"""
LITTERS = "while :; do (sleep 0.01 &); sleep 0.02; done"


def left(site: Site) -> list[int]:
    """Return the pids of all processes that agents left."""
    file = site.folder / "left"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if (stat := read_stat(pid)) is not None and stat.alive]


def restarting(site: Site, life: float = 0.1) -> None:
    """Write a site with an agent that leaves a process, and ends after `life` s."""
    command = [sys.executable, "-c", LEAVES, str(life)]
    restart = {"policy": "always", "backoff": {"initial": "50ms", "factor": 1}}
    site.write([{"instance-id": "a", "command": command, "restart": restart}])


def upgrade(daemon: Daemon) -> None:
    before = epoch(daemon)
    daemon.stub.Upgrade(pb.UpgradeRequest(expected_epoch=before), timeout=60)
    wait_upgraded(daemon, before)


def end_left(site: Site) -> None:
    for pid in alive(left(site)):
        os.kill(pid, signal.SIGKILL)


def test_restarts_do_not_collect_what_hides_in_every_way(site: Site) -> None:
    restarting(site)
    try:
        daemon = site.start()
        wait_until(lambda: len(left(site)) >= 4, "three restarts")
        upgrade(daemon)
        count = len(left(site))
        wait_until(lambda: len(left(site)) >= count + 4, "three more restarts")
        assert len(alive(left(site))) <= 2  # of this run, and of one that is being cleaned up
        daemon.update(a="down")
        daemon.wait_for("a", DOWN)
        assert alive(left(site)) == []
        assert daemon.end() == 0
    finally:
        end_left(site)


@pytest.mark.parametrize("crash", [False, True], ids=["", "after a crash of the daemon"])
def test_an_orderly_end_of_the_daemon_leaves_nothing(site: Site, *, crash: bool) -> None:
    restarting(site, life=1000)
    try:
        daemon = site.start()
        daemon.wait_for("a", UP)
        wait_until(lambda: left(site), "the process that the agent leaves")
        if crash:
            site.kill_daemons()
            daemon = site.start()
            daemon.wait_for("a", UP)
        os.kill(daemon.instance("a").process.pid, signal.SIGKILL)
        wait_until(lambda: len(left(site)) == 2, "the replacement")
        assert daemon.end() == 0
        assert alive(left(site)) == []
    finally:
        end_left(site)


def threads_that_take_sigchld(pid: int) -> list[str]:
    """Return the names of the threads that the end of a child would wake."""
    found = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if not int(fields["SigBlk"], 16) & 1 << (signal.SIGCHLD - 1):
            found.append(fields["Name"].strip())
    return found


def test_no_orphan_of_a_living_agent_stays_a_zombie(site: Site) -> None:
    site.write([{"instance-id": "a", "command": ["sh", "-c", LITTERS]}])
    daemon = site.start()
    daemon.wait_for("a", UP)
    assert not threads_that_take_sigchld(daemon.pid)
    upgrade(daemon)  # now the agent is a child of the first thread too
    assert not threads_that_take_sigchld(daemon.pid)
    assert read_stat(daemon.instance("a").process.pid) is not None
    wait_until(lambda: len(zombies(daemon.pid)) <= 1, "the reaping of orphans")
    os.kill(daemon.instance("a").process.pid, signal.SIGKILL)
    wait_until(lambda: daemon.instance("a").last_exit.signal == "SIGKILL", "the exit status of the agent")
    wait_until(lambda: len(zombies(daemon.pid)) <= 1, "the reaping of orphans")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a pid namespace")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare(1)")
def test_process_1_of_a_pid_namespace_reaps_all_orphans(site: Site) -> None:
    site.write([{"instance-id": "a", "command": ["sh", "-c", LITTERS]}])
    daemon = site.start(program=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", COMMAND))
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    (first,) = map(int, children)
    daemon.wait_for("a", UP)
    # A process of no run, as `docker exec -d` leaves.
    enter = ["nsenter", "--target", str(first), "--pid", "sh", "-c", "setsid sleep 0.05 &"]
    subprocess.run(enter, check=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(zombies(first)) <= 1, "the reaping of orphans")
    os.kill(first, signal.SIGTERM)
    assert daemon.process.wait(60) == 0
