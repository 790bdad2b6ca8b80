"""A daemon with an unwritable log: full disk, closed pipe, stalled pipe."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import COMMAND, Daemon, Site
from tests.waiting import wait_until

UP = pb.NEXT_ACTION_UP


def start(site: Site, log: Path) -> Daemon:
    """Start a daemon with its stderr redirected to `log`."""
    site.write([{"instance-id": "a", "command": ["sleep", "100000"], "restart": {"backoff": {"initial": 0}}}])
    daemon = site.start(program=["sh", "-c", f'exec "$0" "$@" 2>>{log}', COMMAND])
    daemon.wait_for("a", UP)
    return daemon


def replace_agent(daemon: Daemon) -> None:
    before = daemon.wait_for("a", UP).process.pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: daemon.instance("a").process.pid not in (0, before), "the agent to be replaced")


def test_a_full_disk_below_the_log_stops_nothing(site: Site) -> None:
    daemon = start(site, Path("/dev/full"))
    replace_agent(daemon)
    assert daemon.end() == 0


@pytest.mark.parametrize("how", ["closed", "stalled"])
def test_an_unread_pipe_stops_nothing(site: Site, how: str) -> None:
    pipe = site.folder / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    if how == "stalled":
        os.write(reader, b"\n" * (1 << 20))  # until the pipe is full
    daemon = start(site, pipe)
    if how == "closed":
        os.close(reader)
    replace_agent(daemon)
    assert daemon.end() == 0
    if how == "stalled":
        os.close(reader)
