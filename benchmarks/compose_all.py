"""All compose services of a file at once, beside the same call of compose by hand."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.compose_daemon import ComposeDaemon, Watcher
from benchmarks.compose_services import Services, services
from benchmarks.table import Row

COUNT = 50
_HAND = "by hand"
SETTLE = 3.0  # s for the engine, and whoever follows it, to come to rest


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of bringing all up and down, and how many calls of compose the former took."""

    up: float
    down: float
    calls: int = 1


def up_and_stop(quick: bool) -> list[Row]:
    """`up --all` to all running at the watcher, and stop-all to no container left."""
    ours: list[Times] = []
    hand: list[Times] = []
    with services(COUNT) as these:
        for number in range(2 if quick else 6):
            # In turns, as the machine is not the same from one minute to the next.
            if number % 2:
                hand.append(by_hand(these))
            ours.append(asked_of_us(these))
            if not number % 2:
                hand.append(by_hand(these))
    up = {_HAND: median(times.up for times in hand)}
    down = {_HAND: median(times.down for times in hand)}
    return [
        Row(f"up --all of {COUNT} compose services to all running at the watcher", "ms",
            median(times.up for times in ours), up, reach=1.1, reach_of=_HAND,
            note=_note("docker compose up -d", [t.up for t in ours], [t.up for t in hand])),
        Row("the calls of compose that this takes", "calls", max(times.calls for times in ours), reach=1),
        Row(f"stop-all of {COUNT} compose services to no container left at the watcher", "ms",
            median(times.down for times in ours), down, reach=1.1, reach_of=_HAND,
            note=_note("docker compose rm --stop --force", [t.down for t in ours], [t.down for t in hand])),
    ]  # fmt: skip


def _note(call: str, ours: list[float], hand: list[float]) -> str:
    """The call by hand, and the extremes of both, which say how much the ratio of the medians is worth."""
    ranges = [f"{min(times) / 1e3:.2g} to {max(times) / 1e3:.2g} s" for times in (ours, hand)]
    return f"{call}; ours took {ranges[0]}, {_HAND} {ranges[1]}"


def asked_of_us(these: Services) -> Times:
    """By a daemon of its own: it would put an end to what is started by hand."""
    with ComposeDaemon(these) as daemon, Watcher(daemon) as watcher:
        watcher.until(watcher.all_gone, "the daemon to know that nothing runs")
        time.sleep(SETTLE)
        earlier = len(these.calls())
        began = time.monotonic()
        daemon.start_all()
        up = watcher.until(watcher.all_up, "all to run") - began
        calls = len(these.calls()) - earlier
        time.sleep(SETTLE)
        began = time.monotonic()
        daemon.stop_all()
        down = watcher.until(watcher.all_gone, "no container to be left") - began
        time.sleep(SETTLE)
    return Times(up * 1e3, down * 1e3, calls)


def by_hand(these: Services) -> Times:
    up = _compose(these, "up", "-d")
    time.sleep(SETTLE)
    down = _compose(these, "rm", "--stop", "--force")
    time.sleep(SETTLE)
    return Times(up, down)


def _compose(these: Services, *arguments: str) -> float:
    """Milliseconds of the whole call."""
    began = time.monotonic()
    subprocess.run(
        ["docker", "compose", "-f", these.project.file, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        env=these.engine.environment,
    )  # fmt: skip
    return (time.monotonic() - began) * 1e3
