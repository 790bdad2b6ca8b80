"""A second daemon on the same state directory or socket: refused, without harm."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site
from tests.waiting import wait_until

UP = pb.NEXT_ACTION_UP


@pytest.mark.parametrize("shared", ["state directory", "socket"])
def test_a_second_daemon_names_the_first_and_changes_nothing(site: Site, shared: str) -> None:
    site.write([{"instance-id": "a", "command": ["sleep", "100000"]}])
    first = site.start()
    pid = first.wait_for("a", UP).process.pid
    wait_until(
        lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"),
        "the agent to execute its command",
    )
    files = [site.socket, site.state_dir / "lock", site.state_dir / "runs" / "a.json"]
    before = [(os.stat(file).st_ino, os.stat(file).st_mtime_ns) for file in files]
    if shared == "socket":
        second = site.start("--state-dir", str(site.folder / "other"), wait=False)
    else:
        second = site.start("--listen", f"unix:{site.folder / 'other.sock'}", wait=False)
    assert second.process.wait(30) == 1
    assert f"the daemon with pid {first.pid}" in second.log.read_text()
    assert [(os.stat(file).st_ino, os.stat(file).st_mtime_ns) for file in files] == before
    assert first.instance("a").process.pid == pid
    assert site.processes() == [pid]
    first.end(signal.SIGKILL)  # a dead daemon holds no lock
    assert site.start().wait_for("a", UP).process.pid == pid
