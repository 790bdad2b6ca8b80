"""Benchmark of starting and stopping all compose services, against the same compose call by hand."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.compose_daemon import ComposeDaemon, ComposeWatcher
from benchmarks.compose_services import Services, services
from benchmarks.table import Row

COUNT = 50
_HAND = "by hand"
SETTLE = 3.0  # s for the engine, and the daemon that follows it, to become idle


@dataclass(frozen=True, slots=True)
class AllTimes:
    """The duration of bringing all services up and down, in ms, and the number of compose calls for up."""

    up: float
    down: float
    calls: int = 1


def up_and_stop(*, quick: bool) -> list[Row]:
    """Measure `up --all` until a watcher sees all running, and stop-all until no container exists."""
    ours: list[AllTimes] = []
    hand: list[AllTimes] = []
    with services(COUNT) as load:
        for number in range(2 if quick else 6):
            # Alternating, as the speed of the machine changes from minute to minute.
            if number % 2:
                hand.append(by_hand(load))
            ours.append(by_daemon(load))
            if not number % 2:
                hand.append(by_hand(load))
    up = {_HAND: median(times.up for times in hand)}
    down = {_HAND: median(times.down for times in hand)}
    return [
        Row(f"up --all of {COUNT} compose services to all running at the watcher", "ms",
            median(times.up for times in ours), up, reach=1.1, reach_of=_HAND,
            note=_note("docker compose up -d", [t.up for t in ours], [t.up for t in hand])),
        Row("compose calls for up --all", "calls", max(times.calls for times in ours), reach=1),
        Row(f"stop-all of {COUNT} compose services to no container left at the watcher", "ms",
            median(times.down for times in ours), down, reach=1.1, reach_of=_HAND,
            note=_note("docker compose rm --stop --force", [t.down for t in ours], [t.down for t in hand])),
    ]  # fmt: skip


def _note(call: str, ours: list[float], hand: list[float]) -> str:
    """Return the call by hand, and the ranges of both, which show how reliable the ratio is."""
    ranges = [f"{min(times) / 1e3:.2g} to {max(times) / 1e3:.2g} s" for times in (ours, hand)]
    return f"{call}; ours took {ranges[0]}, {_HAND} {ranges[1]}"


def by_daemon(load: Services) -> AllTimes:
    """Measure a daemon started for this round: a running daemon would stop what a call by hand starts."""
    with ComposeDaemon(load) as daemon, ComposeWatcher(daemon) as watcher:
        watcher.until(watcher.all_gone, "the daemon to observe that nothing runs")
        time.sleep(SETTLE)
        earlier = len(load.calls())
        began = time.monotonic()
        daemon.start_all()
        up = watcher.until(watcher.all_up, "all to run") - began
        calls = len(load.calls()) - earlier
        time.sleep(SETTLE)
        began = time.monotonic()
        daemon.stop_all()
        down = watcher.until(watcher.all_gone, "the removal of all containers") - began
        time.sleep(SETTLE)
    return AllTimes(up * 1e3, down * 1e3, calls)


def by_hand(load: Services) -> AllTimes:
    """Measure calls of compose, without a daemon."""
    up = _compose(load, "up", "-d")
    time.sleep(SETTLE)
    down = _compose(load, "rm", "--stop", "--force")
    time.sleep(SETTLE)
    return AllTimes(up, down)


def _compose(load: Services, *arguments: str) -> float:
    """Call compose, and return the duration in ms."""
    began = time.monotonic()
    subprocess.run(
        ["docker", "compose", "-f", load.project.file, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        env=load.engine.environment,
    )  # fmt: skip
    return (time.monotonic() - began) * 1e3
