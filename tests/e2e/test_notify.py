"""What a real daemon tells the service manager that started it, and what its agents learn of that."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import PATIENCE, Site
from tests.waiting import wait_until

TOLD = {"INVOCATION_ID": "0" * 32, "JOURNAL_STREAM": "8:1", "LISTEN_FDNAMES": "x", "WATCHDOG_USEC": "200000"}


@pytest.fixture
def manager(site: Site) -> Iterator[socket.socket]:
    """A service manager's socket, which the daemons of the site are told of."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(site.folder / "notify"))
        ours.settimeout(PATIENCE)
        site.environ = {**site.environ, **TOLD, "NOTIFY_SOCKET": str(site.folder / "notify")}
        site.write([{"instance-id": "a", "command": ["sh", "-c", "env > told; exec sleep 100000"]}])
        yield ours


def until(ours: socket.socket, line: str) -> list[str]:
    """The lines of the datagram that has this one."""
    while line not in (lines := ours.recv(4096).decode().split("\n")):
        pass
    return lines


def test_a_life_is_told_from_ready_to_stopping(site: Site, manager: socket.socket) -> None:
    daemon = site.start(wait=False)
    lines = until(manager, "READY=1")
    assert daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager.state == pb.MANAGER_STATE_RUNNING
    up = "STATUS=1 of 1 instances up"
    if up not in lines:
        until(manager, up)
    until(manager, "WATCHDOG=1")
    daemon.process.send_signal(signal.SIGHUP)
    until(manager, "RELOADING=1")
    until(manager, "READY=1")
    assert daemon.end() == 0
    until(manager, "STOPPING=1")


def test_agents_learn_nothing_of_the_service_manager(site: Site, manager: socket.socket) -> None:
    site.start().wait_for("a", pb.NEXT_ACTION_UP)
    told = site.folder / "told"
    wait_until(lambda: told.exists() and "PATH=" in told.read_text(), "the agent's environment")
    names = {line.partition("=")[0] for line in told.read_text().splitlines()}
    assert "TEST_SITE" in names
    assert not names & {*TOLD, "NOTIFY_SOCKET"}
