"""Benchmarks of starting, stopping and restarting native processes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from benchmarks.agents import SHELL, Child, Reports, crowd, static_child
from benchmarks.managers import (
    HostManager,
    Manager,
    WaitForExits,
    bring_up,
    wait_ended,
    watch_ends,
)
from benchmarks.peers import MakeManager, Supervisord, here, with_ours
from benchmarks.peers_fifo import S6, Runit
from benchmarks.peers_pm2 import Pm2
from benchmarks.table import Row, percentile

SETTLE = 0.05  # s between two kills, so that each meets an idle manager
LIVED = 1.2  # s; runit and supervisord delay the replacement of an agent that lived less than a second
SLOW = ("supervisord",)  # peers that take seconds for each round: they get a tenth of the rounds
MOST = {"pm2": 100}  # agents of a peer that takes minutes for more
CROWD = 5000
COUNTS = (100, 500)  # agents to start and stop
AGENTS = 100  # in rows that name no other number


def kill_one(*, quick: bool) -> list[Row]:
    """Measure kill -9 of one of 100, until the replacement's first act and the change at a watcher."""
    rounds = 30 if quick else 200
    child = static_child()
    peers, note = here(Supervisord, Runit, Pm2)
    times = {"ours": _kill_some(HostManager, child, rounds), "floor": _floor(child, rounds)}
    times |= {peer.name: _kill_some(peer, child, _rounds(peer, rounds)) for peer in peers}
    shell = {make.name: _kill_some(make, SHELL, _rounds(make, rounds)) for make in with_ours(peers)}
    with HostManager(AGENTS, child=child) as ours:
        bring_up(ours, AGENTS)
        watched = _kill_and_watch(ours, rounds)
    p50 = {name: median(found) for name, found in times.items()}
    p99 = {name: percentile(found, 0.99) for name, found in times.items()}
    with_shell = {name: median(found) for name, found in shell.items()}
    floor = "floor: waitid and Popen in a loop, one child"
    return [
        Row(f"kill -9 to the replacement's first act, 100 managed, p50, {child.name}", "ms", p50.pop("ours"),
            p50, bounds={"runit": 0.9, "pm2": 0.25}, note=f"{floor}; {note}" if note else floor),
        Row("the same, p99", "ms", p99.pop("ours"), p99, reach=30),
        Row("the same, p50, shell child", "ms", with_shell.pop("ours"), with_shell),
        Row("kill -9 to the change at a watcher over TCP, p50", "ms", median(watched), reach=5),
    ]  # fmt: skip


def crowded(*, quick: bool) -> list[Row]:
    """Measure kill -9 of one of 100 on an empty host, and beside 5,000 processes of no manager."""
    rounds = 30 if quick else 200
    child = static_child()
    peers, note = here(Runit)
    times = {"empty host": median(_kill_some(HostManager, child, rounds))}
    with crowd(CROWD):
        ours = median(_kill_some(HostManager, child, rounds))
        for peer in peers:
            times[peer.name] = median(_kill_some(peer, child, rounds))
    return [
        Row(f"the replacement's first act beside {CROWD} foreign processes, p50", "ms", ours, times,
            bounds={"empty host": 1.5}, note=note)
    ]  # fmt: skip


def _rounds(make: MakeManager, rounds: int) -> int:
    return max(3, rounds // 10) if make.name in SLOW else rounds


def _kill_some(make: MakeManager, child: Child, rounds: int) -> list[float]:
    with make(AGENTS, child=child) as manager:
        pids = bring_up(manager, AGENTS)
        time.sleep(LIVED)
        return _kill_each(manager, pids, rounds)


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


def _floor(kind: Child, rounds: int) -> list[float]:
    """Measure a plain Python loop that waits for a child and starts another."""
    with tempfile.TemporaryDirectory() as folder, closing(Reports(Path(folder), kind)) as reports:
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
    """Measure the kill of all 100 at once, until the last exit event and the last replacement's first act."""
    rounds = 3 if quick else 10
    peers, note = here(Supervisord, Runit, Pm2)
    back: dict[str, float] = {}
    told: dict[str, float] = {}
    for make in with_ours(peers):
        with make(AGENTS, child=static_child()) as manager:
            times = _kill_together(manager, bring_up(manager, AGENTS), rounds)
        back[manager.name] = median(ran for ran, _ in times)
        if times[0][1] is not None:
            told[manager.name] = median(exited for _, exited in times if exited is not None)
    return [
        Row("all 100 killed at once, to the last exit event", "ms", told.pop("ours"), told,
            bounds={"pm2": 1.0}),
        Row("all 100 killed at once, to all 100 back", "ms", back.pop("ours"), back,
            bounds={"runit": 1.2}, note=note),
    ]  # fmt: skip


def _kill_together(manager: Manager, pids: dict[str, int], rounds: int) -> list[tuple[float, float | None]]:
    """Return, for each round, the times in ms until all are back, and until the last exit event, if any."""
    times: list[tuple[float, float | None]] = []
    for _ in range(rounds):
        time.sleep(LIVED)
        with ExitStack() as stack:
            wait: WaitForExits | None = None
            if type(manager).exits is not Manager.exits:
                wait = stack.enter_context(manager.exits(next(iter(pids))))
            began = time.monotonic()
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            last_exit = (wait(AGENTS) - began) * 1e3 if wait is not None else None
            reports = manager.reports.read(AGENTS)
        times.append(((max(moment for _, _, moment in reports) - began) * 1e3, last_exit))
        pids = {name: pid for name, pid, _ in reports}
    return times


def start_and_stop(*, quick: bool) -> list[Row]:
    """Measure start-all until the last agent's first act, and stop-all until the last end."""
    rows = []
    child = static_child()
    peers, note = here(Supervisord, Runit, S6, Pm2)
    for count in COUNTS:
        rounds = 2 if quick else 5
        started: dict[str, list[float]] = {}
        stopped: dict[str, list[float]] = {}
        for make in with_ours(peer for peer in peers if count <= MOST.get(peer.name, count)):
            with make(count, child=child) as manager:
                for _ in range(rounds):
                    start, stop = _start_stop(manager, count)
                    started.setdefault(manager.name, []).append(start)
                    stopped.setdefault(manager.name, []).append(stop)
        started["bare loop"] = [_bare(child, count) for _ in range(rounds)]
        up = {name: median(times) for name, times in started.items()}
        down = {name: median(times) for name, times in stopped.items()}
        rows.append(
            Row(f"start-all of {count} to the last one's first act", "ms", up.pop("ours"), up,
                bounds={"s6": 1.2, "bare loop": 4.0}, note=note)
        )  # fmt: skip
        rows.append(
            Row(f"stop-all of {count} to the last one gone", "ms", down.pop("ours"), down,
                bounds={"supervisord": 1.0})
        )  # fmt: skip
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


def _bare(kind: Child, count: int) -> float:
    """Return the time of starting the agents in a plain loop, until the last first act, in ms."""
    with tempfile.TemporaryDirectory() as folder, closing(Reports(Path(folder), kind)) as reports:
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
