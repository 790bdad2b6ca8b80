"""What becomes of a compose service that is killed through the engine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from statistics import median

import docker

from benchmarks.compose_daemon import Watcher, is_up, running_daemon
from benchmarks.compose_peer import NAME, REST, Asking
from benchmarks.compose_services import PREFIX, Services, instance_id, services
from benchmarks.managers import PATIENCE
from benchmarks.table import Row, percentile

COUNT = 50
_EVENT = "the engine's event"  # at a client that does nothing but read events
SETTLE = 0.5  # s between two kills


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds from a kill, to when its end and its next run were known."""

    ended: float
    runs: float


def kill(quick: bool) -> list[Row]:
    """A kill, to the change at a watcher over TCP, and to the service running again."""
    rounds, asking_rounds = (5, 2) if quick else (20, 8)
    with services(COUNT) as these:
        with running_daemon(these) as (_, watcher), events(these) as heard:
            pairs = [watched(these, watcher, heard, number) for number in range(rounds)]
        with Asking(these, keep_up=True) as asking:
            asking.until(lambda running: all(running.values()), "all to run")
            theirs = [asked(these, asking, number, number / asking_rounds) for number in range(asking_rounds)]
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


def watched(these: Services, watcher: Watcher, heard: Events, number: int) -> tuple[Times, Times]:
    """One kill: at the watcher, and at a client that reads the engine's events."""
    name = instance_id(number % COUNT)
    before = watcher.instances[name]
    container = before.compose_service.container_id
    began = time.monotonic()
    # The engine answers when the container has ended, and the events come before that.
    killing = threading.Thread(target=these.engine.api.kill, args=(container,))
    killing.start()
    ended = watcher.until(lambda: not is_up(watcher.instances[name]), f"the end of {name}")
    runs = watcher.until(
        lambda: is_up(watcher.instances[name]) and watcher.instances[name].start_time != before.start_time,
        f"{name} to run again",
    )
    killing.join()
    died, started = heard.next("die", container), heard.next("start", container)
    time.sleep(SETTLE)
    return _times(began, ended, runs), _times(began, died, started)


def asked(these: Services, asking: Asking, number: int, phase: float) -> Times:
    """One kill, this part of a round after an answer; known with the first complete answer that shows it."""
    service = PREFIX + instance_id(number % COUNT)
    (container,) = these.project.containers(service)
    first, second = asking.next().moment, asking.next().moment
    time.sleep(phase * max(REST, second - first))
    began = time.monotonic()
    these.engine.api.kill(container)
    ended = asking.until(lambda running: not running[service], f"the end of {service}")
    runs = asking.until(lambda running: running[service], f"{service} to run again")
    return _times(began, ended, runs)


def _times(began: float, ended: float, runs: float) -> Times:
    return Times((ended - began) * 1e3, (runs - began) * 1e3)


class Events:
    """What the engine tells of containers, with the moments (s, CLOCK_MONOTONIC) when that was heard."""

    def __init__(self) -> None:
        self._heard: queue.Queue[tuple[str, str, float]] = queue.Queue()

    def put(self, action: str, container: str) -> None:
        self._heard.put((action, container, time.monotonic()))

    def next(self, action: str, container: str) -> float:
        """The moment of the next event of this kind of this container. Those before it are passed over."""
        while True:
            *found, moment = self._heard.get(timeout=PATIENCE)
            if found == [action, container]:
                return moment


@contextmanager
def events(these: Services) -> Iterator[Events]:
    """The engine's events, read by a thread."""
    heard = Events()
    with closing(docker.APIClient(base_url=these.engine.host, version="auto")) as client:
        filters = {"type": "container", "event": ["die", "start"]}
        stream = client.events(decode=True, filters=filters)

        def read() -> None:
            for event in stream:
                heard.put(event["Action"], event["Actor"]["ID"])

        reading = threading.Thread(target=read)
        reading.start()
        try:
            yield heard
        finally:
            stream.close()
            reading.join()
