"""Property tests of the watch session.

Notifications are true, complete and in order.

The engine's actions, events and inspections come in any order.
"""

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
    """A container of the simulated engine, with its history."""

    id: str
    running: bool = False
    started: float = 0.0
    finished: float = 0.0
    starts: list[float] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    runs_when_listed: int | None = None  # number of ended runs at the listing; None: not listed

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
    """An engine that follows a script.

    The object is connection, stream and message queue in one.

    Before each request, as many steps happen as the next number of `steps_before_requests` says. All others
    happen when the session has no message left to read. `unanswered` says which inspections of reported
    containers get no answer.
    """

    api_version = "1.41"

    def __init__(
        self, script: list[tuple[str, str]], steps_before_requests: list[int], unanswered: Sequence[bool] = ()
    ) -> None:
        self.script = deque(script)
        self.steps_before_requests = deque(steps_before_requests)
        self.unanswered = deque(unanswered)
        self.reported: Collection[str] = ()
        self.items: deque[object] = deque()
        self.containers_by_id: dict[str, Simulated] = {}
        self.destroyed: set[str] = set()
        self.history: dict[str, Simulated] = {}
        self.clock = 1.0
        self.aborted = threading.Event()
        self.empty_reads_left = 3
        self.opening = True
        self.removal = "destroy"
        self.following = False

    # --- steps of the script

    def run_step(self) -> None:
        action, name = self.script.popleft()
        simulated = self.containers_by_id.get(name)
        match action:
            case "create" if simulated is None and name not in self.destroyed:
                self.containers_by_id[name] = self.history[name] = Simulated(name)
                self.emit("create", name)
            case "start" if simulated is not None and not simulated.running:
                simulated.running, simulated.started = True, self.tick()
                simulated.starts.append(simulated.started)
                self.emit("start", name)
            case "die" if simulated is not None and simulated.running:
                simulated.running, simulated.finished = False, self.tick()
                simulated.codes.append(len(simulated.codes) + 1)
                self.emit("die", name, exitCode=str(simulated.codes[-1]))
            case "destroy" if simulated is not None and not simulated.running:
                del self.containers_by_id[name]
                self.destroyed.add(name)
                self.emit(self.removal, name)
            case "rename" if simulated is not None:
                self.emit("rename", name)
            case _:
                pass

    def tick(self) -> float:
        self.clock += 0.01
        return round(self.clock, 6)

    def emit(self, action: str, name: str, **attributes: str) -> None:
        at = int((EPOCH + self.tick()) * 1e9)
        if not self.following:
            return  # the stream is not open, so the event is lost
        event = {"Type": "container", "Action": action, "timeNano": at}
        self.items.append(
            EventReceived(
                cast("Any", self), event | {"Actor": {"ID": name, "Attributes": LABELS | attributes}}
            )
        )

    def run_scheduled_steps(self) -> None:
        steps = self.steps_before_requests.popleft() if self.steps_before_requests else 0
        for _ in range(min(steps, len(self.script))):
            self.run_step()

    # --- a connection

    def negotiate(self, within: float) -> None:
        self.run_scheduled_steps()

    def stream_events(self, filters: object, within: float) -> SimulatedEngine:
        self.run_scheduled_steps()
        self.following = True
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.aborted.wait()
        return iter(())

    def containers(self, **options: object) -> list[dict[str, Any]]:
        self.run_scheduled_steps()
        return [{"Id": name, "Labels": LABELS} for name in self.containers_by_id]

    def inspect(self, name: str, within: float) -> dict[str, Any]:
        self.run_scheduled_steps()
        if name in self.reported and self.unanswered and self.unanswered.popleft():
            self.empty_reads_left = 3
            raise requests.ReadTimeout
        if name not in self.containers_by_id:
            response = requests.Response()
            response.status_code = 404
            raise NotFound("no such container", response, "no such container")
        simulated = self.containers_by_id[name]
        if self.opening:
            simulated.runs_when_listed = len(simulated.codes)
        return simulated.document()

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None: ...

    def check_alive(self, within: float) -> None: ...

    # --- a message queue

    def put(self, item: object) -> None: ...

    def empty(self) -> bool:
        return not self.items

    def get(self, timeout: float) -> object:
        while not self.items and self.script:
            self.run_step()
        if self.items:
            return self.items.popleft()
        self.empty_reads_left -= 1
        if self.empty_reads_left:
            raise Empty
        return CloseRequested()


class RecordingSessionListener:
    """A listener that records all notifications, by container."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.now: dict[str, Container] = {}
        engine.reported = self.now
        self.lives: dict[str, list[Container]] = {}

    def synced(self, projects: object, containers: Sequence[Container], images: object) -> None:
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


def new_session(engine: SimulatedEngine, listener: RecordingSessionListener) -> WatchSession:
    return WatchSession(
        cast("Connection", engine),
        cast("Messages", engine),
        listener,
        lambda callback: callback(),
        lambda: frozenset({"p"}),
        frozenset,
        ping_after=1e6,
        answer_within=1.0,
    )


def run_number(container: Container, truth: Simulated) -> int:
    """Return the number of the container's present run, from 1; 0 before the first.

    A start without an inspection has the time of its event, which is a little later.
    """
    return bisect_right(truth.starts, round((container.started or 0.0) - EPOCH, 6))


def reported_exit_codes(life: list[Container]) -> list[int]:
    """Return the exit codes of all reported ends.

    A run that had ended before the first report counts, too.
    """
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
    [("create", "a")], [(action, "b") for action in ("create", "start", "die", "start")], [0, 0, 0, 0, 3], []
)
@example(
    [("create", "a"), ("start", "a")],
    [(action, "a") for action in ("rename", "die", "destroy")],
    [0, 0, 0, 0, 2],
    [],
)
@example([("create", "a")], [(action, "a") for action in ("start", "die", "start", "die")], [], [True])
@example([("create", "a")], [(action, "a") for action in ("create", "start")], [0, 0, 0, 2], [True])
@example(
    [("create", "a")],
    [("create", "b"), *((action, "a") for action in ("start", "start", "start", "die", "start"))],
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
def test_notifications_are_true_complete_and_in_order(
    before: list[tuple[str, str]],
    after: list[tuple[str, str]],
    steps_before_requests: list[int],
    unanswered: list[bool],
) -> None:
    engine = SimulatedEngine(before, steps_before_requests, unanswered)
    while engine.script:
        engine.run_step()
    engine.script.extend(after)
    listener = RecordingSessionListener(engine)
    session = new_session(engine, listener)
    try:
        session.open()
        engine.opening = False
        session.follow()
    finally:
        session.close()

    # True: the last notification of each container agrees with the engine.
    assert listener.now.keys() == engine.containers_by_id.keys()
    for name, truth in engine.containers_by_id.items():
        document = truth.document()["State"]
        known = listener.now[name]
        assert (known.running, known.pid, known.exit_code, known.status) == (
            document["Running"],
            document["Pid"],
            document["ExitCode"],
            document["Status"],
        )
    for name, life in listener.lives.items():
        # In order: no notification goes back to an earlier run or repeats the one before.
        runs = [run_number(container, engine.history[name]) for container in life]
        assert runs == sorted(runs)
        assert all(simulated != other for simulated, other in pairwise(life))
        # A known run never appears as a new run.
        for (run, earlier), (same, later) in pairwise(zip(runs, life, strict=True)):
            if earlier.running and later.running and run == same:
                assert later.pid == earlier.pid or not earlier.pid
        # Complete: every end is reported with its exit code.
        if name in engine.containers_by_id:
            simulated = engine.history[name]
            already_over = max(0, (simulated.runs_when_listed or 0) - (life[0].status == "exited"))
            assert reported_exit_codes(life) == simulated.codes[already_over:]
        else:
            assert not life[-1].running


def test_a_removal_is_known_by_the_word_of_podman() -> None:
    engine = SimulatedEngine([("create", "a")], [])
    engine.run_step()
    engine.removal = "remove"
    engine.script.extend([("destroy", "a"), ("create", "b")])
    listener = RecordingSessionListener(engine)
    session = new_session(engine, listener)
    session.open()
    session.follow()
    session.close()
    assert list(listener.now) == ["b"]


def test_a_stuck_container_does_not_hide_the_others() -> None:
    class Stuck(SimulatedEngine):
        def containers(self, **options: object) -> list[dict[str, Any]]:
            return [entry | {"State": "running"} for entry in super().containers()]

        def inspect(self, name: str, within: float) -> dict[str, Any]:
            if name == "stuck":
                raise requests.ReadTimeout
            return super().inspect(name, within)

    engine = Stuck([(action, name) for name in ("stuck", "well") for action in ("create", "start")], [])
    while engine.script:
        engine.run_step()
    engine.script.extend([("die", "well"), ("die", "stuck")])
    listener = RecordingSessionListener(engine)
    session = new_session(engine, listener)
    session.open()
    assert {name: simulated.running for name, simulated in listener.now.items()} == {
        "stuck": True,
        "well": True,
    }
    session.follow()
    session.close()
    assert {name: simulated.running for name, simulated in listener.now.items()} == {
        "stuck": False,
        "well": False,
    }
