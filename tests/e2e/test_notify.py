"""Notifications of a real daemon to systemd, and the environment of its agents."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import PATIENCE, Site
from tests.waiting import wait_until

SYSTEMD_VARIABLES = {
    "INVOCATION_ID": "0" * 32,
    "JOURNAL_STREAM": "8:1",
    "LISTEN_FDNAMES": "x",
    "WATCHDOG_USEC": "200000",
}


@pytest.fixture
def manager(site: Site) -> Iterator[socket.socket]:
    """Bind the notification socket of a service manager for the daemons of the site."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(site.folder / "notify"))
        receiver.settimeout(PATIENCE)
        site.environ = {**site.environ, **SYSTEMD_VARIABLES, "NOTIFY_SOCKET": str(site.folder / "notify")}
        site.write([{"instance-id": "a", "command": ["sh", "-c", "env > environment; exec sleep 100000"]}])
        yield receiver


def receive(receiver: socket.socket, line: str) -> list[str]:
    """Receive datagrams up to the first with this line, and return its lines."""
    while line not in (lines := receiver.recv(4096).decode().split("\n")):
        pass
    return lines


def test_the_service_manager_is_notified_from_ready_to_stopping(site: Site, manager: socket.socket) -> None:
    daemon = site.start(wait=False)
    lines = receive(manager, "READY=1")
    assert daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).manager.state == pb.MANAGER_STATE_RUNNING
    up = "STATUS=1 of 1 instances up"
    if up not in lines:
        receive(manager, up)
    receive(manager, "WATCHDOG=1")
    daemon.process.send_signal(signal.SIGHUP)
    receive(manager, "RELOADING=1")
    receive(manager, "READY=1")
    assert daemon.end() == 0
    receive(manager, "STOPPING=1")


def test_agents_inherit_no_variable_of_the_service_manager(site: Site, manager: socket.socket) -> None:
    site.start().wait_for("a", pb.NEXT_ACTION_UP)
    file = site.folder / "environment"
    wait_until(lambda: file.exists() and "PATH=" in file.read_text(), "the agent's environment")
    names = {line.partition("=")[0] for line in file.read_text().splitlines()}
    assert "TEST_SITE" in names
    assert not names & {*SYSTEMD_VARIABLES, "NOTIFY_SOCKET"}
