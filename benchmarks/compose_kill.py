"""Benchmark of the restart of a compose service after a kill through the engine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from statistics import median

import docker

from benchmarks.compose_daemon import ComposeWatcher, is_up, running_daemon
from benchmarks.compose_peer import NAME, REST, Polling
from benchmarks.compose_services import PREFIX, Services, instance_id, services
from benchmarks.managers import PATIENCE
from benchmarks.table import Row, percentile

COUNT = 50
_EVENT = "the engine's event"  # at a client that only reads events
SETTLE = 0.5  # s between two kills


@dataclass(frozen=True, slots=True)
class KillTimes:
    """The times from a kill until the end and the next run were observed, in ms."""

    ended: float
    runs: float


def kill(*, quick: bool) -> list[Row]:
    """Measure kills, until a watcher over TCP sees the end, and sees the service running again."""
    rounds, polling_rounds = (5, 2) if quick else (20, 8)
    with services(COUNT) as load:
        with running_daemon(load) as (_, watcher), events(load) as received:
            pairs = [watched(load, watcher, received, number) for number in range(rounds)]
        with Polling(load, keep_up=True) as polling:
            polling.until(lambda running: all(running.values()), "all to run")
            theirs = [
                polled(load, polling, number, number / polling_rounds) for number in range(polling_rounds)
            ]
    ours, bare = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return [
        *_rows(
            "the change at a watcher over TCP", 150, [each.ended for each in ours],
            {_EVENT: [each.ended for each in bare], NAME: [each.ended for each in theirs]},
        ),
        *_rows(
            "running again at the watcher", 1000, [each.runs for each in ours],
            {_EVENT: [each.runs for each in bare], NAME: [each.runs for each in theirs]},
        ),
    ]  # fmt: skip


def _rows(what: str, reach: float, ours: list[float], peers: dict[str, list[float]]) -> list[Row]:
    p50 = {name: median(times) for name, times in peers.items()}
    p99 = {name: percentile(times, 0.99) for name, times in peers.items()}
    return [
        Row(f"docker kill to {what}, {COUNT} services, p50", "ms", median(ours), p50, reach=reach),
        Row("the same, p99", "ms", percentile(ours, 0.99), p99, reach=reach),
    ]


def watched(
    load: Services, watcher: ComposeWatcher, received: EngineEvents, number: int
) -> tuple[KillTimes, KillTimes]:
    """Kill one service; returns the times at the watcher, and at a reader of the engine's events."""
    name = instance_id(number % COUNT)
    before = watcher.instances[name]
    container = before.compose_service.container_id
    began = time.monotonic()
    # The engine answers after the end of the container, and sends its events earlier.
    killing = threading.Thread(target=load.engine.api.kill, args=(container,))
    killing.start()
    ended = watcher.until(lambda: not is_up(watcher.instances[name]), f"the end of {name}")
    runs = watcher.until(
        lambda: is_up(watcher.instances[name]) and watcher.instances[name].start_time != before.start_time,
        f"{name} to run again",
    )
    killing.join()
    died, started = received.next("die", container), received.next("start", container)
    time.sleep(SETTLE)
    return _times(began, ended, runs), _times(began, died, started)


def polled(load: Services, polling: Polling, number: int, phase: float) -> KillTimes:
    """Kill one service while OCS's way polls; returns the times of the first answers that show the changes.

    `phase` (0 to 1) is the part of a polling round between an answer and the kill.
    """
    service = PREFIX + instance_id(number % COUNT)
    (container,) = load.project.containers(service)
    first, second = polling.next().moment, polling.next().moment
    time.sleep(phase * max(REST, second - first))
    began = time.monotonic()
    load.engine.api.kill(container)
    ended = polling.until(lambda running: not running[service], f"the end of {service}")
    runs = polling.until(lambda running: running[service], f"{service} to run again")
    return _times(began, ended, runs)


def _times(began: float, ended: float, runs: float) -> KillTimes:
    return KillTimes((ended - began) * 1e3, (runs - began) * 1e3)


class EngineEvents:
    """The engine's events of containers, with the times (s, CLOCK_MONOTONIC) of their arrival."""

    def __init__(self) -> None:
        self._received: queue.Queue[tuple[str, str, float]] = queue.Queue()

    def put(self, action: str, container: str) -> None:
        """Add an event that arrives now."""
        self._received.put((action, container, time.monotonic()))

    def next(self, action: str, container: str) -> float:
        """Return the time of the container's next event of a kind, and drop the events before."""
        while True:
            *found, moment = self._received.get(timeout=PATIENCE)
            if found == [action, container]:
                return moment


@contextmanager
def events(load: Services) -> Iterator[EngineEvents]:
    """Read the engine's events on a thread."""
    received = EngineEvents()
    with closing(docker.APIClient(base_url=load.engine.host, version="auto")) as client:
        filters = {"type": "container", "event": ["die", "start"]}
        stream = client.events(decode=True, filters=filters)

        def read() -> None:
            for event in stream:
                received.put(event["Action"], event["Actor"]["ID"])

        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield received
        finally:
            stream.close()
            reading.join()
