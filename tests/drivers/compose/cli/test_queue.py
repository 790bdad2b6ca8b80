"""What goes into one call of compose, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hostmanager_server.core.events import DriverEvent, RunKey
from hostmanager_server.core.spec import InstanceSpec, Management, ServiceSpec
from hostmanager_server.drivers.compose.cli.batches import Work
from hostmanager_server.drivers.compose.cli.process import ComposeCall, ComposeCalls
from hostmanager_server.drivers.compose.cli.queue import GATHER, GATHER_AT_MOST, CallQueue
from hostmanager_server.drivers.compose.service import FollowedService

from tests.fakes.driver import FakePoller


class RecordedCalls(ComposeCalls):
    """Begins nothing: a test says when a call is done."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.begun: list[tuple[str, ...]] = []
        self.done: list[Callable[[str], None]] = []

    def start(self, argv: Sequence[str], working_dir: str, done: Callable[[str], None]) -> ComposeCall:
        self.begun.append(tuple(argv))
        self.done.append(done)
        return ComposeCall()


class Desk:
    """A dispatcher whose command lines are the work and the names of the services."""

    def __init__(self) -> None:
        self.poller = FakePoller()
        self.calls = RecordedCalls({})
        self.events: list[DriverEvent] = []
        self.dispatcher = CallQueue(self.poller, self.calls, lambda _, then: then(), self._command)

    def _command(self, work: Work, services: Sequence[FollowedService]) -> list[str]:
        return [work.value, *(service.wanted.service for service in services)]

    def ask(self, name: str) -> None:
        wanted = ServiceSpec("p", ("/p/compose.yaml",), name, "image:1")
        spec = InstanceSpec(name, "Agent", management=Management.DOCKER, service=wanted)
        service = FollowedService(
            spec, self.events.append, self.poller.now, lambda _spec, _ready: lambda: None
        )
        service.launched(RunKey(name, 1))
        self.dispatcher.ask(Work.UP, service)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_is_asked_for_in_several_turns_of_the_supervisor_is_one_call(desk: Desk) -> None:
    for name in ("a", "b", "c", "d"):
        desk.ask(name)
        desk.poller.advance(GATHER * 0.8)
    assert desk.calls.begun == []
    desk.poller.advance(GATHER)
    assert desk.calls.begun == [("up", "a", "b", "c", "d")]


def test_one_service_alone_waits_no_longer_than_for_one_other(desk: Desk) -> None:
    desk.ask("a")
    desk.poller.advance(GATHER)
    assert desk.calls.begun == [("up", "a")]


def test_a_client_that_asks_on_and_on_does_not_keep_the_others_from_starting(desk: Desk) -> None:
    desk.ask("a")
    for _ in range(int(GATHER_AT_MOST / GATHER) * 4):
        desk.poller.advance(GATHER * 0.5)
        desk.ask("b")
    assert desk.calls.begun == [("up", "a", "b")]


def test_what_is_asked_for_during_a_call_is_the_next_one(desk: Desk) -> None:
    desk.ask("a")
    desk.poller.advance(GATHER)
    desk.ask("b")
    desk.ask("c")
    desk.poller.advance(GATHER_AT_MOST)
    assert desk.calls.begun == [("up", "a")]
    desk.calls.done[0]("")
    assert desk.calls.begun == [("up", "a"), ("up", "b", "c")]


def test_a_queue_that_was_cleared_while_it_gathered_calls_nothing(desk: Desk) -> None:
    desk.ask("a")
    desk.ask("b")
    desk.dispatcher.clear()
    desk.poller.advance(GATHER_AT_MOST)
    assert desk.calls.begun == []
