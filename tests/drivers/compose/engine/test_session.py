"""Whatever the order in which events and inspections come, what is told is true, whole and in order."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from queue import Empty
from typing import Any, cast

import requests
from docker.errors import NotFound
from hostmanager_server.drivers.compose.engine.connection import Connection
from hostmanager_server.drivers.compose.engine.container import Container
from hostmanager_server.drivers.compose.engine.messages import CloseRequested, EventReceived, Messages
from hostmanager_server.drivers.compose.engine.session import WatchSession
from hypothesis import example, given, settings
from hypothesis import strategies as st

EPOCH = 1767225600  # of rfc3339
LABELS = {"com.docker.compose.project": "p", "com.docker.compose.service": "s"}


def rfc3339(seconds: float) -> str:
    return f"2026-01-01T00:{int(seconds) // 60:02}:{seconds % 60:09.6f}Z"


@dataclass
class Simulated:
    """A container as the engine has it, and its life so far."""

    id: str
    running: bool = False
    started: float = 0.0
    finished: float = 0.0
    starts: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    over: int | None = None  # how many of its runs had ended when it was listed; None: it was not

    def document(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": f"/{self.id}",
            "Config": {"Labels": LABELS},
            "State": {
                "Status": "running" if self.running else "exited" if self.codes else "created",
                "Running": self.running,
                "Pid": int(self.started * 1000) if self.running else 0,
                "ExitCode": self.codes[-1] if self.codes and not self.running else 0,
                "StartedAt": rfc3339(self.started) if self.started else "0001-01-01T00:00:00Z",
                "FinishedAt": rfc3339(self.finished) if self.finished else "0001-01-01T00:00:00Z",
            },
        }


class SimulatedEngine:
    """An engine in which things happen by a script: as many as `busy` says before each request is
    answered, the others when the session has nothing left to read. `mute` says of which requests for what
    has been told of before nothing comes. It is connection, stream and inbox."""

    api_version = "1.41"

    def __init__(self, script: list[tuple[str, str]], busy: list[int], mute: Sequence[bool] = ()) -> None:
        self.script = deque(script)
        self.busy = deque(busy)
        self.mute = deque(mute)
        self.told: Collection[str] = ()
        self.items: deque[object] = deque()
        self.containers_by_id: dict[str, Simulated] = {}
        self.destroyed: set[str] = set()
        self.history: dict[str, Simulated] = {}
        self.clock = 1.0
        self.aborted = threading.Event()
        self.looks_left = 3
        self.opening = True
        self.following = False

    # --- what happens

    def happen(self) -> None:
        what, name = self.script.popleft()
        one = self.containers_by_id.get(name)
        match what:
            case "create" if one is None and name not in self.destroyed:
                self.containers_by_id[name] = self.history[name] = Simulated(name)
                self.emit("create", name)
            case "start" if one is not None and not one.running:
                one.running, one.started = True, self.tick()
                one.starts.append(one.started)
                self.emit("start", name)
            case "die" if one is not None and one.running:
                one.running, one.finished = False, self.tick()
                one.codes.append(len(one.codes) + 1)
                self.emit("die", name, exitCode=str(one.codes[-1]))
            case "destroy" if one is not None and not one.running:
                del self.containers_by_id[name]
                self.destroyed.add(name)
                self.emit("destroy", name)
            case "rename" if one is not None:
                self.emit("rename", name)
            case _:
                pass

    def tick(self) -> float:
        self.clock += 0.01
        return round(self.clock, 6)

    def emit(self, action: str, name: str, **attributes: str) -> None:
        at = int((EPOCH + self.tick()) * 1e9)
        if not self.following:
            return  # nobody hears it, now or ever
        event = {"Type": "container", "Action": action, "timeNano": at}
        self.items.append(
            EventReceived(
                cast("Any", self), event | {"Actor": {"ID": name, "Attributes": LABELS | attributes}}
            )
        )

    def maybe_happen(self) -> None:
        for _ in range(min(self.busy.popleft() if self.busy else 0, len(self.script))):
            self.happen()

    # --- a connection

    def negotiate(self, within: float) -> None:
        self.maybe_happen()

    def stream_events(self, filters: object, within: float) -> SimulatedEngine:
        self.maybe_happen()
        self.following = True
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.aborted.wait()
        return iter(())

    def containers(self, **options: object) -> list[dict[str, Any]]:
        self.maybe_happen()
        return [{"Id": name, "Labels": LABELS} for name in self.containers_by_id]

    def inspect(self, name: str, within: float) -> dict[str, Any]:
        self.maybe_happen()
        if name in self.told and self.mute and self.mute.popleft():
            self.looks_left = 3
            raise requests.ReadTimeout
        if name not in self.containers_by_id:
            response = requests.Response()
            response.status_code = 404
            raise NotFound("no such container", response, "no such container")
        one = self.containers_by_id[name]
        if self.opening:
            one.over = len(one.codes)
        return one.document()

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None: ...

    def check_alive(self, within: float) -> None: ...

    # --- an inbox

    def put(self, item: object) -> None: ...

    def empty(self) -> bool:
        return not self.items

    def get(self, timeout: float) -> object:
        while not self.items and self.script:
            self.happen()
        if self.items:
            return self.items.popleft()
        self.looks_left -= 1
        if self.looks_left:
            raise Empty
        return CloseRequested()


class Told:
    """A listener that keeps what it is told, container by container."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.now: dict[str, Container] = {}
        engine.told = self.now
        self.lives: dict[str, list[Container]] = {}

    def synced(self, containers: Sequence[Container], images: object) -> None:
        for container in containers:
            self.now[container.id] = container
            self.lives[container.id] = [container]

    def container_changed(self, container: Container) -> None:
        self.now[container.id] = container
        self.lives.setdefault(container.id, []).append(container)

    def container_removed(self, container_id: str) -> None:
        del self.now[container_id]

    def images_changed(self, ids: object) -> None: ...

    def engine_lost(self, why: str) -> None: ...


def new_session(engine: SimulatedEngine, told: Told) -> WatchSession:
    return WatchSession(
        cast("Connection", engine),
        cast("Messages", engine),
        told,
        lambda callback: callback(),
        frozenset,
        ping_after=1e6,
        answer_within=1.0,
    )


def run_of(container: Container, truth: Simulated) -> int:
    """Which of its runs this is, the first being 1; 0 before that. A start that was not inspected has the
    time of its event, which is a little later."""
    return bisect_right(truth.starts, round((container.started or 0.0) - EPOCH, 6))


def codes_told(life: list[Container]) -> list[int]:
    """The exit codes of the runs that were seen to end, or over when first seen."""
    return [
        after.exit_code
        for before, after in zip([None, *life], life, strict=False)
        if after.status == "exited" and (before is None or before.running)
    ]


steps = st.tuples(
    st.sampled_from(["start", "die", "create", "start", "die", "rename", "start", "die", "destroy"]),
    st.sampled_from(["a", "b"]),
)


@example(
    [("create", "a")], [(what, "b") for what in ("create", "start", "die", "start")], [0, 0, 0, 0, 3], []
)
@example(
    [("create", "a"), ("start", "a")],
    [(what, "a") for what in ("rename", "die", "destroy")],
    [0, 0, 0, 0, 2],
    [],
)
@example([("create", "a")], [(what, "a") for what in ("start", "die", "start", "die")], [], [True])
@example([("create", "a")], [(what, "a") for what in ("create", "start")], [0, 0, 0, 2], [True])
@example(
    [("create", "a")],
    [("create", "b"), *((what, "a") for what in ("start", "start", "start", "die", "start"))],
    [0, 0, 1, 1, 0, 4],
    [],
)
@settings(max_examples=300, deadline=None)
@given(
    st.lists(steps, max_size=10).map(lambda steps: [("create", "a"), *steps]),
    st.lists(steps, min_size=5, max_size=40).map(lambda steps: [("create", "b"), *steps]),
    st.lists(st.integers(0, 5), min_size=10, max_size=40),
    st.lists(st.booleans(), max_size=20),
)
def test_what_is_told_is_true_whole_and_in_order(
    before: list[tuple[str, str]], after: list[tuple[str, str]], busy: list[int], mute: list[bool]
) -> None:
    engine = SimulatedEngine(before, busy, mute)
    while engine.script:
        engine.happen()
    engine.script.extend(after)
    told = Told(engine)
    session = new_session(engine, told)
    try:
        session.open()
        engine.opening = False
        session.follow()
    finally:
        session.close()

    # True: in the end it is what the engine has.
    assert told.now.keys() == engine.containers_by_id.keys()
    for name, truth in engine.containers_by_id.items():
        document = truth.document()["State"]
        known = told.now[name]
        assert (known.running, known.pid, known.exit_code, known.status) == (
            document["Running"],
            document["Pid"],
            document["ExitCode"],
            document["Status"],
        )
    for name, life in told.lives.items():
        # In order: never back to an earlier run, nor the same twice.
        runs = [run_of(container, engine.history[name]) for container in life]
        assert runs == sorted(runs)
        assert all(one != other for one, other in pairwise(life))
        # A run that is known is not taken for one that has only just begun.
        for (run, earlier), (same, later) in pairwise(zip(runs, life, strict=True)):
            if earlier.running and later.running and run == same:
                assert later.pid == earlier.pid or not earlier.pid
        # Whole: every end is told, each with its exit code.
        if name in engine.containers_by_id:
            one = engine.history[name]
            already_over = max(0, (one.over or 0) - (life[0].status == "exited"))
            assert codes_told(life) == one.codes[already_over:]
        else:
            assert not life[-1].running


def test_a_container_that_the_engine_is_stuck_with_does_not_hide_the_others() -> None:
    class Stuck(SimulatedEngine):
        def containers(self, **options: object) -> list[dict[str, Any]]:
            return [entry | {"State": "running"} for entry in super().containers()]

        def inspect(self, name: str, within: float) -> dict[str, Any]:
            if name == "stuck":
                raise requests.ReadTimeout
            return super().inspect(name, within)

    engine = Stuck([(what, name) for name in ("stuck", "well") for what in ("create", "start")], [])
    while engine.script:
        engine.happen()
    engine.script.extend([("die", "well"), ("die", "stuck")])
    told = Told(engine)
    session = new_session(engine, told)
    session.open()
    assert {name: one.running for name, one in told.now.items()} == {"stuck": True, "well": True}
    session.follow()
    session.close()
    assert {name: one.running for name, one in told.now.items()} == {"stuck": False, "well": False}
