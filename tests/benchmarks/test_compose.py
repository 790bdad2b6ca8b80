"""The compose benchmarks: on two services of a real engine, and what is said where there is none."""

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
from benchmarks.compose_peer import Asking
from benchmarks.compose_services import services
from tests.docker_engine import DockerEngine

ROOT = Path(__file__).resolve().parents[2]
BURN = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that only figures need."""
    for module in (compose_all, compose_daemon, compose_kill):
        monkeypatch.setattr(module, "SETTLE", 0.0)


def test_cpu_is_counted_of_children_that_live_and_of_those_that_were_waited_for() -> None:
    before = tree_cpu(os.getpid())
    burner = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with burner:
        assert burner.stdout is not None
        burner.stdout.readline()
        assert tree_cpu(os.getpid()) - before > 0.2
        burner.communicate()
    assert tree_cpu(os.getpid()) - before > 0.2
    assert tree_cpu(burner.pid) == 0.0


def test_one_word_selects_all_parts_that_begin_with_it() -> None:
    assert parts("compose") == ["compose-idle", "compose-kill", "compose-all"]
    assert parts("log") == ["log"]
    with pytest.raises(argparse.ArgumentTypeError, match="no part 'comp'; there are kill-one, "):
        parts("comp")
    assert all(name in parts(name) for name in BENCHMARKS)


def test_without_an_engine_the_parts_are_left_out_and_the_reason_stands_under_the_table() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "compose-kill"]
    nowhere = {**os.environ, "DOCKER_HOST": "unix:///nowhere/engine.sock"}
    done = subprocess.run(command, cwd=ROOT, env=nowhere, stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.splitlines()[-1].startswith("compose-kill is left out: no ")


@pytest.mark.usefixtures("no_rest")
def test_a_killed_service_is_timed_at_the_watcher_and_at_the_engine(engine: DockerEngine) -> None:
    with services(2) as these:
        with running_daemon(these) as (_, watcher), compose_kill.events(these) as events:
            for number in range(2):
                ours, bare = compose_kill.watched(these, watcher, events, number)
                assert 0 < ours.ended < ours.runs
                assert 0 < bare.ended < bare.runs
        assert these.project.containers() == []
    assert these.project.name not in engine.docker("ps", "--all")
    assert not these.project.file.exists()


def test_the_way_of_ocs_sees_a_kill_and_starts_the_service_again(engine: DockerEngine) -> None:
    with services(1) as these:
        these.project.compose("up", "-d")
        with Asking(these, keep_up=True) as asking:
            times = compose_kill.asked(these, asking, 0, 0.0)
        assert 0 < times.ended < times.runs


@pytest.mark.usefixtures("no_rest")
def test_all_are_brought_up_with_one_call_and_leave_nothing(engine: DockerEngine) -> None:
    with services(2) as these:
        ours, hand = compose_all.asked_of_us(these), compose_all.by_hand(these)
        assert these.project.containers() == []
    assert ours.calls == 1
    assert min(ours.up, ours.down, hand.up, hand.down) > 0
