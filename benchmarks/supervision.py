"""Benchmarks of starting, stopping and restarting native processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from benchmarks.managers import HostManager, Manager, Reports, bring_up, wait_ended, watch_ends
from benchmarks.peers import Supervisord
from benchmarks.table import Row, percentile

SETTLE = 0.05  # s between two kills, so that each meets an idle manager


def kill_one(*, quick: bool) -> list[Row]:
    """Measure kill -9 of one of 100, until the replacement's first act and the change at a watcher."""
    rounds = 30 if quick else 200
    with HostManager(100) as ours:
        pids = bring_up(ours, 100)
        ran = _kill_each(ours, pids, rounds)
        watched = _kill_and_watch(ours, rounds)
    with Supervisord(100) as theirs:
        peer = _kill_each(theirs, bring_up(theirs, 100), min(rounds, 20))
    floor = _floor(rounds)
    return [
        Row("kill -9 to the replacement's first act, 100 managed, p50", "ms", median(ran),
            {"supervisord": median(peer), "floor": median(floor)}, reach=3,
            note="floor: waitid and Popen in a loop, one child"),
        Row("the same, p99", "ms", percentile(ran, 0.99),
            {"supervisord": percentile(peer, 0.99), "floor": percentile(floor, 0.99)}, reach=30),
        Row("kill -9 to the change at a watcher over TCP, p50", "ms", median(watched), reach=5),
    ]  # fmt: skip


def _kill_each(manager: Manager, pids: dict[str, int], rounds: int) -> list[float]:
    latencies = []
    names = sorted(pids)
    for number in range(rounds):
        name = names[number % len(names)]
        began = time.monotonic()
        os.kill(pids[name], signal.SIGKILL)
        ((back, pid, moment),) = manager.reports.read(1)
        assert back == name
        pids[name] = pid
        latencies.append((moment - began) * 1e3)
        time.sleep(SETTLE)
    return latencies


def _kill_and_watch(ours: HostManager, rounds: int) -> list[float]:
    latencies = []
    with grpc.insecure_channel(ours.address) as channel:
        stream = pb_grpc.HostManagerServiceStub(channel).WatchStatus(pb.WatchStatusRequest())
        messages = iter(stream)
        pids = {i.instance_id: i.process.pid for i in next(messages).snapshot.instances}
        names = sorted(pids)
        for number in range(rounds):
            name = names[number % len(names)]
            began = time.monotonic()
            os.kill(pids[name], signal.SIGKILL)
            moment = 0.0
            while True:
                changed = {i.instance_id: i for i in next(messages).delta.instances}
                moment = moment or time.monotonic()
                if name in changed and changed[name].process.pid not in (0, pids[name]):
                    break
            pids[name] = changed[name].process.pid
            latencies.append((moment - began) * 1e3)
            ours.reports.read(1)
            time.sleep(SETTLE)
        stream.cancel()
    return latencies


def _floor(rounds: int) -> list[float]:
    """Measure a plain Python loop that waits for a child and starts another."""
    with tempfile.TemporaryDirectory() as folder, closing(Reports(Path(folder))) as reports:
        child = subprocess.Popen(reports.command("x"), start_new_session=True)
        reports.read(1)
        latencies = []

        def restart_children() -> None:
            nonlocal child
            for _ in range(rounds):
                child.wait()
                child = subprocess.Popen(reports.command("x"), start_new_session=True)

        keeper = threading.Thread(target=restart_children)
        keeper.start()
        pid = child.pid
        for _ in range(rounds):
            time.sleep(SETTLE)
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            ((_, pid, moment),) = reports.read(1)
            latencies.append((moment - began) * 1e3)
        keeper.join()
        child.kill()
        child.wait()
    return latencies


def kill_all(*, quick: bool) -> list[Row]:
    """Measure the kill of all 100 at once, until the first act of the last replacement."""
    rounds = 3 if quick else 10
    results: dict[str, float] = {}
    for make in (HostManager, Supervisord):
        with make(100) as manager:
            pids = bring_up(manager, 100)
            times = []
            for _ in range(rounds):
                began = time.monotonic()
                for pid in pids.values():
                    os.kill(pid, signal.SIGKILL)
                reports = manager.reports.read(100)
                times.append((max(moment for _, _, moment in reports) - began) * 1e3)
                pids = {name: pid for name, pid, _ in reports}
                time.sleep(1.0)
            results[manager.name] = median(times)
    ours = results.pop("ours")
    return [Row("all 100 killed at once, to all 100 back", "ms", ours, results, reach=150)]


def start_and_stop(*, quick: bool) -> list[Row]:
    """Measure start-all until the last agent's first act, and stop-all until the last end."""
    rows = []
    for count, reach_stop in ((100, 30), (500, 130)):
        rounds = 2 if quick else 5
        started: dict[str, list[float]] = {}
        stopped: dict[str, list[float]] = {}
        for make in (HostManager, Supervisord):
            with make(count) as manager:
                for _ in range(rounds):
                    start, stop = _start_stop(manager, count)
                    started.setdefault(manager.name, []).append(start)
                    stopped.setdefault(manager.name, []).append(stop)
        started["bare loop"] = [_bare(count) for _ in range(rounds)]
        up = {name: median(times) for name, times in started.items()}
        down = {name: median(times) for name, times in stopped.items()}
        rows.append(
            Row(f"start-all of {count} to the last one's first act", "ms", up.pop("ours"), up,
                reach=1.5, reach_of="bare loop")
        )  # fmt: skip
        rows.append(
            Row(f"stop-all of {count} to the last one gone", "ms", down.pop("ours"), down, reach=reach_stop)
        )
    return rows


def _start_stop(manager: Manager, count: int) -> tuple[float, float]:
    """Return the durations of one start-all and one stop-all, in ms."""
    began = time.monotonic()
    request = _in_background(manager.start_all)
    reports = manager.reports.read(count)
    start = max(moment for _, _, moment in reports) - began
    request.join()
    time.sleep(1.0)
    ends = watch_ends(pid for _, pid, _ in reports)
    began = time.monotonic()
    request = _in_background(manager.stop_all)
    stop = wait_ended(ends) - began
    request.join()
    time.sleep(1.0)
    return start * 1e3, stop * 1e3


def _in_background(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def _bare(count: int) -> float:
    """Return the time of starting the agents in a plain loop, until the last first act, in ms."""
    with tempfile.TemporaryDirectory() as folder, closing(Reports(Path(folder))) as reports:
        began = time.monotonic()
        children: list[subprocess.Popen[bytes]] = []

        def spawn() -> None:
            children.extend(
                subprocess.Popen(reports.command(f"i{number}"), start_new_session=True)
                for number in range(count)
            )

        spawning = _in_background(spawn)
        last = max(moment for _, _, moment in reports.read(count))
        spawning.join()
        for child in children:
            child.kill()
        for child in children:
            child.wait()
    return (last - began) * 1e3
