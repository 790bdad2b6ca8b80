"""Tests of the compose call queue, on a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hostmanager_server.core.events import DriverEvent, RunKey
from hostmanager_server.core.spec import InstanceSpec, Management, ServiceSpec
from hostmanager_server.drivers.compose.cli.batches import ComposeTask
from hostmanager_server.drivers.compose.cli.process import ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.queue import GATHER_LIMIT, GATHER_TIME, CallQueue
from hostmanager_server.drivers.compose.followed_service import FollowedService

from tests.fakes.driver import FakePoller


class RecordedCalls(ComposeCalls):
    """Calls that start no process: a test ends each call."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.begun: list[tuple[str, ...]] = []
        self.done: list[Callable[[str], None]] = []
        self.stop_graces: list[float] = []

    def start(
        self, argv: Sequence[str], working_dir: str, done: Callable[[str], None], *, stop_grace: float = 0.0
    ) -> ComposeCall:
        self.stop_graces.append(stop_grace)
        self.begun.append(tuple(argv))
        self.done.append(done)
        return ComposeCall()


class QueueHarness:
    """A queue with command lines made from the task and the names of the services."""

    def __init__(self) -> None:
        self.poller = FakePoller()
        self.calls = RecordedCalls({})
        self.events: list[DriverEvent] = []
        self.queue = CallQueue(self.poller, self.calls, lambda _, then: then(), self._command)

    def _command(self, task: ComposeTask, services: Sequence[FollowedService]) -> list[str]:
        return [task.value, *(service.wanted.service for service in services)]

    def request(self, name: str, *, stop_grace: float = 10.0) -> None:
        wanted = ServiceSpec("p", ("/p/compose.yaml",), name, "image:1", stop_grace=stop_grace)
        spec = InstanceSpec(name, "Agent", management=Management.DOCKER, service=wanted)
        service = FollowedService(
            spec, self.events.append, self.poller.now, lambda _spec, _ready: lambda: None
        )
        service.begin_launch(RunKey(name, 1))
        self.queue.request(ComposeTask.UP, service)


@pytest.fixture
def harness() -> QueueHarness:
    return QueueHarness()


def test_requests_of_several_supervisor_turns_share_one_call(harness: QueueHarness) -> None:
    for name in ("a", "b", "c", "d"):
        harness.request(name)
        harness.poller.advance(GATHER_TIME * 0.8)
    assert harness.calls.begun == []
    harness.poller.advance(GATHER_TIME)
    assert harness.calls.begun == [("up", "a", "b", "c", "d")]


def test_a_single_request_waits_only_one_gathering_time(harness: QueueHarness) -> None:
    harness.request("a")
    harness.poller.advance(GATHER_TIME)
    assert harness.calls.begun == [("up", "a")]


def test_endless_requests_do_not_delay_the_call_beyond_the_limit(harness: QueueHarness) -> None:
    harness.request("a")
    for _ in range(int(GATHER_LIMIT / GATHER_TIME) * 4):
        harness.poller.advance(GATHER_TIME * 0.5)
        harness.request("b")
    assert harness.calls.begun == [("up", "a", "b")]


def test_requests_during_a_call_share_the_next_call(harness: QueueHarness) -> None:
    harness.request("a")
    harness.poller.advance(GATHER_TIME)
    harness.request("b")
    harness.request("c")
    harness.poller.advance(GATHER_LIMIT)
    assert harness.calls.begun == [("up", "a")]
    harness.calls.done[0]("")
    assert harness.calls.begun == [("up", "a"), ("up", "b", "c")]


def test_a_queue_cleared_while_gathering_makes_no_call(harness: QueueHarness) -> None:
    harness.request("a")
    harness.request("b")
    harness.queue.clear()
    harness.poller.advance(GATHER_LIMIT)
    assert harness.calls.begun == []


def test_a_call_takes_the_longest_stop_time_of_its_services_into_account(harness: QueueHarness) -> None:
    harness.request("a")
    harness.request("b", stop_grace=400.0)
    harness.poller.advance(GATHER_LIMIT)
    assert harness.calls.stop_graces == [400.0]
