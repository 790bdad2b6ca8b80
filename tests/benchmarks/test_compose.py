"""The compose benchmarks, on a real engine with few services, and without an engine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compose_all, compose_daemon, compose_kill
from benchmarks.__main__ import BENCHMARKS, parts
from benchmarks.compose_daemon import running_daemon
from benchmarks.compose_idle import tree_cpu
from benchmarks.compose_peer import Polling
from benchmarks.compose_services import services
from tests.docker_engine import RealEngine

ROOT = Path(__file__).resolve().parents[2]
BURN = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the pauses that only exact figures need."""
    for module in (compose_all, compose_daemon, compose_kill):
        monkeypatch.setattr(module, "SETTLE", 0.0)


def test_cpu_time_includes_running_and_reaped_children() -> None:
    before = tree_cpu(os.getpid())
    burner = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with burner:
        assert burner.stdout is not None
        burner.stdout.readline()
        assert tree_cpu(os.getpid()) - before > 0.2
        burner.communicate()
    assert tree_cpu(os.getpid()) - before > 0.2
    assert tree_cpu(burner.pid) == 0.0


def test_a_first_word_selects_all_its_benchmarks() -> None:
    assert parts("compose") == ["compose-idle", "compose-kill", "compose-all", "compose-neighbours"]
    assert parts("log") == ["log"]
    with pytest.raises(argparse.ArgumentTypeError, match=r"no benchmark 'comp' .known: kill-one, "):
        parts("comp")
    assert all(name in parts(name) for name in BENCHMARKS)


def test_without_an_engine_a_benchmark_is_skipped_with_the_reason_under_the_table() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "compose-kill"]
    nowhere = {**os.environ, "DOCKER_HOST": "unix:///nowhere/engine.sock"}
    done = subprocess.run(command, cwd=ROOT, env=nowhere, stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("compose-kill is skipped: no ")


@pytest.mark.usefixtures("no_rest")
def test_a_killed_service_is_timed_at_the_watcher_and_at_the_engine(engine: RealEngine) -> None:
    with services(2) as load:
        with running_daemon(load) as (_, watcher), compose_kill.events(load) as events:
            for number in range(2):
                ours, bare = compose_kill.watched(load, watcher, events, number)
                assert 0 < ours.ended < ours.runs
                assert 0 < bare.ended < bare.runs
        assert load.project.containers() == []
    assert load.project.name not in engine.docker("ps", "--all")
    assert not load.project.file.exists()


def test_polling_as_ocs_does_observes_a_kill_and_starts_the_service_again(engine: RealEngine) -> None:
    with services(1) as load:
        load.project.compose("up", "-d")
        with Polling(load, keep_up=True) as polling:
            times = compose_kill.polled(load, polling, 0, 0.0)
        assert 0 < times.ended < times.runs


@pytest.mark.usefixtures("no_rest")
def test_all_services_start_with_one_call_and_leave_no_container(engine: RealEngine) -> None:
    with services(2) as load:
        ours, hand = compose_all.by_daemon(load), compose_all.by_hand(load)
        assert load.project.containers() == []
    assert ours.calls == 1
    assert min(ours.up, ours.down, hand.up, hand.down) > 0
