"""The harness of the benchmarks on a real daemon: reports, ends and cleanup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.agents import Reports
from benchmarks.managers import HostManager, bring_up, wait_ended, watch_ends

ROOT = Path(__file__).resolve().parents[2]


def test_a_killed_agent_reports_again_and_closing_leaves_nothing() -> None:
    with HostManager(2) as manager:
        pids = bring_up(manager, 2)
        assert sorted(pids) == ["i0000", "i0001"]
        os.kill(pids["i0000"], signal.SIGKILL)
        ((name, pid, _),) = manager.reports.read(1)
        assert name == "i0000"
        assert pid != pids["i0000"]
        ends = watch_ends([pid, pids["i0001"], manager.pid])
    wait_ended(ends)
    assert not manager.folder.exists()


def test_agents_of_a_killed_manager_are_ended() -> None:
    with HostManager(2) as manager:
        ends = watch_ends(bring_up(manager, 2).values())
        os.kill(manager.pid, signal.SIGKILL)
    wait_ended(ends)


def test_a_process_that_is_no_agent_is_not_ended(tmp_path: Path) -> None:
    reports = Reports(tmp_path)
    with subprocess.Popen(["sleep", "99999"]) as other:
        reports.path.write_text(f"x {other.pid}\n")
        reports.read(1)
        reports.close()
        other.terminate()
    assert other.returncode == -signal.SIGTERM  # not the SIGKILL for agents


def test_a_manager_that_does_not_start_says_why_and_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(HostManager, "name", "a daemon")
    monkeypatch.setattr("benchmarks.managers._free_port", lambda: "no-port")
    with pytest.raises(RuntimeError, match="cannot measure a daemon: it ended at once"):
        HostManager(1)
    assert list(tmp_path.iterdir()) == []


def test_one_benchmark_alone_prints_its_rows_as_json() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "watchers", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    rows = json.loads(done.stdout)
    assert [row["unit"] for row in rows] == ["ms", "ms"]
    assert all(row["ours"] > 0 and row["reach"] and row["met"] in (True, False) for row in rows)
