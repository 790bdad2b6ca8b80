"""The notification protocol of systemd, sd_notify(3)."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostmanager_server.linux import sd_notify
from hostmanager_server.linux.sd_notify import NotifySocket

PATIENCE = 30.0


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Return the socket of a service manager, with its name in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@hm-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind("\0" + name[1:] if name[0] == "@" else name)
        ours.settimeout(PATIENCE)
        yield ours, name


def test_lines_sent_together_are_one_datagram(manager: tuple[socket.socket, str]) -> None:
    ours, name = manager
    there = NotifySocket.from_environment({"NOTIFY_SOCKET": name})
    assert there is not None
    assert there.send(sd_notify.READY, sd_notify.status("two\nlines"))
    assert ours.recv(4096) == b"READY=1\nSTATUS=two lines"
    there.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_there_is_no_notify_socket(environ: dict[str, str]) -> None:
    assert NotifySocket.from_environment(environ) is None


def test_a_full_queue_returns_false_at_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(str(tmp_path / "notify"))
        there = NotifySocket.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert there is not None
        while there.send(sd_notify.WATCHDOG):
            pass
        ours.recv(4096)
        assert there.send(sd_notify.WATCHDOG)
        there.close()


def test_an_absent_manager_returns_false(tmp_path: Path) -> None:
    there = NotifySocket.from_environment({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert there is not None
    assert not there.send(sd_notify.READY)
    there.close()


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "42"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_only_a_watchdog_of_this_process_counts(environ: dict[str, str], interval: float | None) -> None:
    assert sd_notify.watchdog_interval(environ, 42) == interval


def test_private_variables_are_removed_for_other_programs() -> None:
    private = dict.fromkeys(("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "JOURNAL_STREAM"), "1")
    assert sd_notify.without_private_variables({**private, "PATH": os.defpath}) == {"PATH": os.defpath}
