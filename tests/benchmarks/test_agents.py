"""The agents of the benchmarks, their peers, and the crowd, with small numbers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import growth, peers_fifo, peers_pm2
from benchmarks.agents import SHELL, Child, Reports, crowd, static_child
from benchmarks.managers import bring_up, wait_ended, watch_ends
from benchmarks.peers import Peer, Supervisord, here, require
from benchmarks.peers_fifo import S6, Runit
from benchmarks.peers_pm2 import Pm2
from benchmarks.table import NotHereError

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None and shutil.which("cc") is None, reason="no C compiler"
)


@needs_compiler
def test_the_static_child_tells_the_time_of_its_start(tmp_path: Path) -> None:
    reports = Reports(tmp_path, static_child())
    before = time.monotonic()
    with subprocess.Popen(reports.command("x")) as child:
        ((name, pid, moment),) = reports.read(1)
        assert (name, pid) == ("x", child.pid)
        assert before <= moment <= time.monotonic()
        reports.close()
    assert child.returncode == -signal.SIGKILL


@needs_compiler
def test_a_run_file_takes_name_and_fifo_from_its_folder_and_environment(tmp_path: Path) -> None:
    reports = Reports(tmp_path, static_child())
    (tmp_path / "i0001").mkdir()
    static_child().write_run_file(tmp_path / "i0001" / "run", reports.path)
    environ = {"HM_BENCH_FIFO": str(reports.path)}
    with subprocess.Popen(["./run"], cwd=tmp_path / "i0001", env=environ):
        ((name, _, _),) = reports.read(1)
        assert name == "i0001"
        reports.close()


def test_a_run_file_of_the_shell_child_reports_alike(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    (tmp_path / "i0001").mkdir()
    SHELL.write_run_file(tmp_path / "i0001" / "run", reports.path)
    with subprocess.Popen(["./run"], cwd=tmp_path / "i0001") as child:
        assert reports.read(1)[0][:2] == ("i0001", child.pid)
        child.kill()
        reports.close()


def test_reports_may_come_in_pieces_with_and_without_a_time(tmp_path: Path) -> None:
    reports = Reports(tmp_path, Child("no such child", Path("/none")))
    assert reports._parse(b"a 1 2500000000\nb 2 3500") == [("a", 1, 2.5)]
    ((name, pid, _),) = reports._parse(b"000000\nc 3\n")[1:]
    assert (name, pid) == ("c", 3)


def test_the_crowd_ends_with_the_measurement() -> None:
    with crowd(5):
        before = {pid for pid in os.listdir("/proc") if pid.isdigit()}
        children = [pid for pid in before if static_child().is_agent(int(pid))]
        assert not static_child().program or len(children) >= 5
        ends = watch_ends(int(pid) for pid in children)
    wait_ended(ends)


@pytest.mark.parametrize("peer", [Runit, S6, Pm2])
def test_a_killed_agent_of_a_peer_reports_again_and_closing_leaves_nothing(peer: Peer) -> None:
    if peer.missing() and os.environ.get("CI") == "true":
        pytest.fail(f"CI must have what this test needs: {peer.missing()}", pytrace=False)
    if peer.missing():
        pytest.skip(peer.missing())
    with peer(2, child=static_child()) as manager:
        pids = bring_up(manager, 2)
        os.kill(pids["i0000"], signal.SIGKILL)
        ((name, pid, _),) = manager.reports.read(1)
        assert name == "i0000"
        ends = watch_ends([manager.pid, pid, pids["i0001"]])
    wait_ended(ends)
    assert not manager.folder.exists()


def test_a_missing_peer_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_fifo, "program", lambda name: None)
    monkeypatch.setattr(peers_pm2, "MODULE", Path("/none/pm2"))
    found, note = here(Supervisord, Runit, Pm2)
    assert Runit not in found
    assert Pm2 not in found
    assert "without runit: there is no runsvdir; run `scripts/setup-peers`" in note
    with pytest.raises(NotHereError, match="cannot compare with s6: there is no s6-svscan"):
        require(S6.name, S6.missing())


def test_the_cost_of_a_daemon_includes_its_helpers_and_no_agent() -> None:
    helper = "import sys; print('ready', flush=True); sys.stdin.read()"
    script = f"""
import subprocess, sys
agent = subprocess.Popen(['sleep', '99999'], stdout=subprocess.DEVNULL)
helper = subprocess.Popen([sys.executable, '-c', {helper!r}])
sys.stdin.read()
agent.kill()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        (found,) = growth.helpers(daemon.pid)
        assert growth.helpers(found) == []
        assert growth.resident(daemon.pid) > growth.resident(found) > 0
        assert growth.daemon_cpu(daemon.pid) > growth.daemon_cpu(found) > 0
        daemon.communicate()
