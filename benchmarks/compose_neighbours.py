"""Benchmark of compose services beside others that hang or fail, against the same without those."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from hostmanager.v1 import host_manager_pb2 as pb

from benchmarks.compose_daemon import ComposeDaemon, ComposeWatcher, is_gone, is_up
from benchmarks.compose_services import PREFIX, Services, instance_id, services
from benchmarks.managers import PATIENCE
from benchmarks.table import Row

COUNT = 50
FAILING = 5
SETTLE = 1.0  # s between two measurements
_ALONE = "alone"
# The second of these services waits for the health of the first, which never comes.
_SICK, _WAITING = 0, 1
_HANGING: dict[int, dict[str, Any]] = {
    _SICK: {"healthcheck": {"test": ["CMD", "false"], "interval": "1h"}},
    _WAITING: {"depends_on": {PREFIX + instance_id(_SICK): {"condition": "service_healthy"}}},
}
_BAD: Sequence[dict[str, Any]] = (
    {"image": "127.0.0.1:9/no-such:1"},
    {"image": "127.0.0.1:9/no-such:2"},
    {"command": ["/nonexistent"]},
    {"command": ["/nonexistent", "again"]},
    {"command": ["sh", "-c", "exit 1"]},
)


def neighbours(*, quick: bool) -> list[Row]:
    """Measure a restart, a stop and a start-all beside services that hang or fail."""
    return [*_beside_hanging(6 if quick else 16), *_beside_failing(1 if quick else 4)]


def _beside_hanging(rounds: int) -> list[Row]:
    kills: dict[bool, list[float]] = {False: [], True: []}
    stops: dict[bool, list[float]] = {False: [], True: []}
    victims = range(len(_HANGING), len(_HANGING) + rounds)  # one a round: each kill lengthens the backoff
    with (
        services(victims.stop, _HANGING) as load,
        ComposeDaemon(load) as daemon,
        ComposeWatcher(daemon) as watcher,
    ):
        watcher.until(watcher.all_gone, "the daemon to observe that nothing runs")
        _bring(daemon, watcher, pb.TARGET_STATE_UP, [_SICK, *victims])
        for number in victims:
            hanging = bool(number % 2)
            target = pb.TARGET_STATE_UP if hanging else pb.TARGET_STATE_DOWN
            _request(daemon, target, [_WAITING])
            watcher.until(partial(_hangs, watcher, hanging=hanging), "the start to hang, or to end")
            time.sleep(SETTLE)
            kills[hanging].append(_kill(load, watcher, number))
            time.sleep(SETTLE)
            stops[hanging].append(_stop(daemon, watcher, number))
    return [
        Row("docker kill to running again, beside a start that hangs, p50", "ms", median(kills[True]),
            {_ALONE: median(kills[False])}, reach=1.2, reach_of=_ALONE, note="another service waits for"
            " the health of its dependency"),
        Row("stop to no container left, beside a start that hangs, p50", "ms", median(stops[True]),
            {_ALONE: median(stops[False])}, reach=1.2, reach_of=_ALONE),
    ]  # fmt: skip


def _beside_failing(rounds: int) -> list[Row]:
    good = COUNT - FAILING
    bad = dict(enumerate(_BAD, good))
    ours: list[float] = []
    alone: list[float] = []
    for number in range(rounds):
        # Alternating, as the speed of the machine changes from minute to minute.
        for failing in (True, False) if number % 2 else (False, True):
            count, special = (COUNT, bad) if failing else (good, {})
            (ours if failing else alone).append(start_all(count, special, good))
    return [
        Row(f"up --all of {COUNT}, of which {FAILING} fail, to {good} running at the watcher", "ms",
            median(ours), {_ALONE: median(alone)}, reach=1.1, reach_of=_ALONE,
            note=f"2 without image, 2 without program, 1 ends at once; ours took {_range(ours)},"
            f" {_ALONE} {_range(alone)}"),
    ]  # fmt: skip


def start_all(count: int, special: dict[int, dict[str, Any]], good: int) -> float:
    """Return the time in ms from the request until the first `good` services run."""
    names = [instance_id(number) for number in range(good)]
    with services(count, special) as load, ComposeDaemon(load) as daemon, ComposeWatcher(daemon) as watcher:
        watcher.until(watcher.all_gone, "the daemon to observe that nothing runs")
        time.sleep(SETTLE)
        began = time.monotonic()
        daemon.start_all()
        ended = watcher.until(
            lambda: all(is_up(watcher.instances[name]) for name in names), f"{good} services to run"
        )
        return (ended - began) * 1e3


def _range(times: list[float]) -> str:
    return f"{min(times) / 1e3:.2g} to {max(times) / 1e3:.2g} s"


def _hangs(watcher: ComposeWatcher, *, hanging: bool) -> bool:
    """Return whether the start waits, or, if not `hanging`, has ended."""
    wanted = pb.NEXT_ACTION_WAIT_START if hanging else pb.NEXT_ACTION_DOWN
    return watcher.instances[instance_id(_WAITING)].next_action == wanted


def _kill(load: Services, watcher: ComposeWatcher, number: int) -> float:
    name = instance_id(number)
    before = watcher.instances[name]
    began = time.monotonic()
    # The engine answers after the end of the container.
    container = before.compose_service.container_id
    killing = threading.Thread(target=load.engine.api.kill, args=(container,))
    killing.start()
    ended = watcher.until(_runs_since(watcher, name, before), f"{name} to run again")
    killing.join()
    return (ended - began) * 1e3


def _runs_since(watcher: ComposeWatcher, name: str, before: pb.ManagedInstance) -> Callable[[], bool]:
    return lambda: is_up(watcher.instances[name]) and watcher.instances[name].start_time != before.start_time


def _stop(daemon: ComposeDaemon, watcher: ComposeWatcher, number: int) -> float:
    began = time.monotonic()
    return (_bring(daemon, watcher, pb.TARGET_STATE_DOWN, [number]) - began) * 1e3


def _bring(
    daemon: ComposeDaemon, watcher: ComposeWatcher, target: pb.TargetState.ValueType, numbers: Sequence[int]
) -> float:
    """Request the target for these services, and return the time when they have reached it."""
    _request(daemon, target, numbers)
    reached = is_up if target == pb.TARGET_STATE_UP else is_gone
    names = [instance_id(number) for number in numbers]
    return watcher.until(lambda: all(reached(watcher.instances[name]) for name in names), f"{names}")


def _request(daemon: ComposeDaemon, target: pb.TargetState.ValueType, numbers: Sequence[int]) -> None:
    changes = [pb.TargetChange(instance_id=instance_id(number), target_state=target) for number in numbers]
    daemon.stub.Update(pb.UpdateRequest(requests=changes), timeout=PATIENCE)
