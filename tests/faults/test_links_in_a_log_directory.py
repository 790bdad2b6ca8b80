"""Links in a log directory to files that the daemon must neither write nor show."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon, Site
from tests.waiting import wait_until

UP = pb.NEXT_ACTION_UP
SECRET = "only the owner reads or writes this\n"
BACKOFF = {"backoff": {"initial": 0.05, "maximum": 0.2}}
PRINTER = "print('hello', flush=True); import time; time.sleep(100000)"


@pytest.fixture
def victim(site: Site) -> Path:
    """Create a file of another user, which must stay unchanged."""
    file = site.folder / "victim"
    file.write_text(SECRET)
    return file


def start(site: Site) -> Daemon:
    command = [sys.executable, "-c", PRINTER]
    site.write([{"instance-id": i, "command": command, "restart": BACKOFF} for i in "ab"])
    return site.start()


def tail(daemon: Daemon) -> str:
    request = pb.TailLogsRequest(instance_id="a", lines=10)
    lines = itertools.chain.from_iterable(m.lines for m in daemon.stub.TailLogs(request, timeout=20))
    return "\n".join(line.text for line in lines)


def test_a_start_whose_output_would_go_through_a_link_fails_until_the_link_is_removed(
    site: Site, victim: Path
) -> None:
    logs = site.state_dir / "logs"
    logs.mkdir(parents=True)
    (logs / "a.log").symlink_to(victim)
    daemon = start(site)
    daemon.wait_for("b", UP)

    def why() -> list[str]:
        return [e.message for e in daemon.events("a") if e.reason == "StartFailed"]

    wait_until(lambda: len(why()) > 1, "a second attempt")
    assert why()[0] == (
        f"cannot start 'a': cannot write its output to '{logs}/a.log': the file is a link to '{victim}'; "
        "remove the file, or change 'log-dir'"
    )
    assert "the file is a link to" in daemon.instance("a").message
    with pytest.raises(grpc.RpcError) as refused:
        tail(daemon)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"cannot read the output of 'a': '{logs}/a.log': the file is a link" in str(
        refused.value.details()
    )
    assert victim.read_text() == SECRET
    (logs / "a.log").unlink()
    daemon.wait_for("a", UP)
    wait_until(lambda: tail(daemon) == "hello", "its output")


def test_a_link_with_the_name_of_an_archive_is_not_shown(site: Site, victim: Path) -> None:
    daemon = start(site)
    daemon.wait_for_all(UP)
    wait_until(lambda: tail(daemon) == "hello", "its output")
    logs = site.state_dir / "logs"
    (logs / "a.log.1").symlink_to(victim)
    daemon.end(signal.SIGKILL)
    daemon = site.start()
    daemon.wait_for_all(UP)
    assert tail(daemon) == "hello"
    assert victim.read_text() == SECRET


@pytest.fixture
def public() -> Iterator[Path]:
    """Create a folder that other users can enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run an agent as another user")
def test_links_by_an_agent_in_its_own_log_directory_are_not_followed(
    site: Site, victim: Path, public: Path
) -> None:
    logs = public / "logs"
    logs.mkdir()
    entry = pwd.getpwnam("nobody")
    os.chown(logs, entry.pw_uid, entry.pw_gid)
    # Replaces its files by links and ends, so that the daemon starts the agent again.
    names = ["a.log", "a.log.1", "a.log.copying", "a.log.cut.4096"]
    script = f"for name in {' '.join(names)}; do ln -sf {victim} {logs}/$name; done"
    agent = {"instance-id": "a", "command": ["/bin/sh", "-c", script], "user": "nobody", "working-dir": "/"}
    site.write([{**agent, "restart": BACKOFF, "log": {"size": 4096}}])
    text = site.file.read_text()
    site.file.write_text(text.replace("    agent-instances:", f"    log-dir: {logs}\n    agent-instances:"))
    daemon = site.start()
    wait_until(lambda: "the file is a link to" in daemon.instance("a").message, "the start to be refused")
    assert {path.name for path in logs.iterdir()} <= set(names)
    assert victim.read_text() == SECRET
    assert "Traceback" not in daemon.log.read_text()
