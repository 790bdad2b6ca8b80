"""Limits of memory: the guard over `restart-above`, and cgroups with `memory`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hostmanager_server.core.events import Exited, MemoryExceeded, RunKey, Started
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.drivers.process import driver as driver_module
from hostmanager_server.drivers.process.cgroup import Cgroup, Cgroups
from hostmanager_server.drivers.process.memory_guard import MemoryGuard

from tests.drivers.conftest import ProcessHarness
from tests.drivers.process.test_process import with_process

A = RunKey("a", 1)
MIB = 2**20
# The child holds the memory: the whole tree counts.
HUNGRY = """
import subprocess, sys, time
child = "import time; held = b'x' * 60_000_000; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child]); time.sleep(600)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guard measure every 50 ms."""

    def make(poller, call_soon, post):  # type: ignore[no-untyped-def]  # types of the harness
        return MemoryGuard(poller, call_soon, post, 0.05)

    monkeypatch.setattr(driver_module, "MemoryGuard", make)


def hungry(real: ProcessHarness, limit: int | None) -> InstanceSpec:
    return replace(real.command("a", sys.executable, "-c", HUNGRY), restart_above=limit)


def excesses(real: ProcessHarness) -> list[MemoryExceeded]:
    return [event for event in real.events if isinstance(event, MemoryExceeded)]


def turn(real: ProcessHarness, times: int) -> None:
    """Turn the poller that often, at most 50 ms each: time for some measurements."""
    for _ in range(times):
        real.poller.turn(0.05)


@pytest.mark.usefixtures("quick")
def test_a_tree_above_its_limit_is_reported_once(real: ProcessHarness) -> None:
    real.driver.launch(A, hungry(real, 50 * MIB))
    real.wait_for(lambda: bool(excesses(real)))
    [event] = excesses(real)
    assert (event.run, event.limit) == (A, 50 * MIB)
    assert event.memory > 50 * MIB
    turn(real, 6)
    assert len(excesses(real)) == 1


@pytest.mark.usefixtures("quick")
def test_a_reload_changes_the_limit_of_a_live_run(real: ProcessHarness) -> None:
    real.driver.launch(A, hungry(real, None))
    turn(real, 2)
    assert not any(thread.name == "memory" for thread in threading.enumerate())
    real.driver.follow(hungry(real, 2**40))
    turn(real, 6)
    assert excesses(real) == []
    real.driver.follow(hungry(real, 50 * MIB))
    real.wait_for(lambda: bool(excesses(real)))


# --- cgroups, on a file system that behaves like one with the controller


@pytest.fixture
def controlled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cgroup whose children have files for memory once the controller is enabled."""
    parent = tmp_path / "site"
    parent.mkdir()
    control = "cgroup.subtree_control"
    (parent / control).write_text("")
    make, write = os.mkdir, os.write

    def enabled(folder: str) -> bool:
        return "+memory" in Path(folder, control).read_text()

    def fill(folder: str) -> None:
        if enabled(os.path.dirname(folder)):
            for name in ("memory.max", "memory.oom.group", "memory.events"):
                if not Path(folder, name).exists():
                    Path(folder, name).write_text("")

    def mkdir(path: str, mode: int = 0o777) -> None:
        make(path, mode)
        Path(path, control).write_text("")
        fill(path)

    def written(file: int, data: bytes) -> int:
        count = write(file, data)
        target = os.readlink(f"/proc/self/fd/{file}")
        if target.endswith(control):
            for folder in Path(target).parent.iterdir():
                if folder.is_dir():
                    fill(str(folder))
        return count

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "write", written)
    return parent


def test_the_controller_is_enabled_for_the_first_limit_only(controlled: Path) -> None:
    groups = Cgroups(f"{controlled}/agents")
    assert groups.make("a.1") is not None
    assert (controlled / "cgroup.subtree_control").read_text() == ""
    group = groups.make("b.1")
    assert group is not None
    assert groups.limit_memory(group, 2 * MIB) == ""
    assert (Path(group.path) / "memory.max").read_text() == str(2 * MIB)
    assert (Path(group.path) / "memory.oom.group").read_text() == "1"
    assert (controlled / "cgroup.subtree_control").read_text() == "+memory"


def test_the_kernel_s_count_tells_an_end_for_lack_of_memory(tmp_path: Path) -> None:
    group = Cgroup(str(tmp_path), tmp_path.stat().st_ino)
    assert not group.out_of_memory()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 0\n")
    assert not group.out_of_memory()
    (tmp_path / "memory.events").write_text("max 3\noom 1\noom_kill 2\noom_group_kill 1\n")
    assert group.out_of_memory()


def test_without_a_cgroup_the_reason_and_the_remedy_are_told(real: ProcessHarness, tmp_path: Path) -> None:
    real.driver.launch(A, with_process(real.command("a", "sleep", "600"), memory=64 * MIB))
    [started] = [event for event in real.events if isinstance(event, Started)]
    assert "no cgroup of its own; start the daemon with --cgroup PATH" in started.unlimited
    assert "cannot limit the memory of" in Cgroups(f"{tmp_path}/agents").limit_memory(
        Cgroup(str(tmp_path), tmp_path.stat().st_ino), MIB
    )


def test_a_kill_in_a_cgroup_is_told_as_lack_of_memory(
    grouped: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroup, "out_of_memory", lambda self: True)
    grouped.driver.launch(A, grouped.command("a", "sleep", "600"))
    grouped.driver.stop(A, signal.SIGKILL, whole_tree=False)
    grouped.wait_for(lambda: any(isinstance(event, Exited) for event in grouped.events))
    [exited] = [event for event in grouped.events if isinstance(event, Exited)]
    assert exited.status.out_of_memory
