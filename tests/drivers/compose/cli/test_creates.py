"""Tests of the queue of calls that make containers, on a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hostmanager_server.core.spec import ServiceSpec
from hostmanager_server.drivers.compose.cli.creates import PATIENCE, CreateQueue, Creation
from hostmanager_server.drivers.compose.cli.gathering import GATHER_LIMIT, GATHER_TIME
from hostmanager_server.drivers.compose.cli.process import CallKind, ComposeCall, ComposeCalls

from tests.fakes.driver import FakePoller


class RecordedCall(ComposeCall):
    """A call that a test ends."""

    def __init__(self, argv: Sequence[str], done: Callable[[str], None]) -> None:
        super().__init__()
        self.text = " ".join(argv)
        self.done = done
        self.interrupted = False

    def interrupt(self) -> None:
        self.interrupted = True

    def kill(self) -> None:
        """Do nothing."""


class RecordedCalls(ComposeCalls):
    """Calls that start no process."""

    def __init__(self) -> None:
        super().__init__(lambda callback: None, {})
        self.begun: list[RecordedCall] = []

    def start(
        self,
        kind: CallKind,
        argv: Sequence[str],
        working_dir: str,
        done: Callable[[str], None],
        *,
        stop_grace: float = 0.0,
    ) -> ComposeCall:
        self.begun.append(RecordedCall(argv, done))
        return self.begun[-1]


class QueueHarness:
    """A queue with command lines made from the names of the services."""

    def __init__(self) -> None:
        self.poller = FakePoller()
        self.calls = RecordedCalls()
        self.made: set[str] = set()
        self.ends: dict[str, str] = {}  # the outcome of each creation
        self.queue = CreateQueue(self.poller, self.calls, lambda _, then: then(), self._command)

    def _command(self, services: Sequence[ServiceSpec]) -> list[str]:
        return [service.service for service in services]

    def request(self, name: str, *also_missing: str, alone: bool = False) -> Creation:
        def done(error: str) -> None:
            self.ends[name] = error

        missing = {name, *also_missing}
        creation = Creation(
            ServiceSpec("p", ("/p/compose.yaml",), name, "image:1"),
            lambda: frozenset(missing - self.made), done, alone,
        )  # fmt: skip
        self.queue.request(creation)
        return creation

    def begun(self) -> list[str]:
        return [call.text for call in self.calls.begun]

    def finish(self, number: int, made: str = "", error: str = "") -> None:
        self.made.update(made.split())
        self.calls.begun[number].done(error)


@pytest.fixture
def harness() -> QueueHarness:
    return QueueHarness()


def test_requests_of_several_supervisor_turns_share_one_call(harness: QueueHarness) -> None:
    for name in ("a", "b", "c", "d"):
        harness.request(name)
        harness.poller.advance(GATHER_TIME * 0.8)
    assert harness.begun() == []
    harness.poller.advance(GATHER_TIME)
    assert harness.begun() == ["a b c d"]


def test_endless_requests_do_not_delay_the_call_beyond_the_limit(harness: QueueHarness) -> None:
    count = int(GATHER_LIMIT / GATHER_TIME) * 4
    for number in range(count):
        harness.request(f"s{number}")
        harness.poller.advance(GATHER_TIME * 0.5)
    assert harness.begun()


def test_requests_during_a_call_share_the_next_call(harness: QueueHarness) -> None:
    harness.request("a")
    harness.poller.advance(GATHER_TIME)
    harness.request("b")
    harness.request("c")
    harness.poller.advance(GATHER_LIMIT)
    assert harness.begun() == ["a"]
    harness.finish(0, "a")
    assert harness.begun() == ["a", "b c"]
    assert harness.ends == {"a": ""}


def test_a_call_that_hangs_keeps_only_services_with_the_same_missing_containers_waiting(
    harness: QueueHarness,
) -> None:
    harness.request("a", "db")
    harness.poller.advance(GATHER_TIME)
    harness.request("b")
    harness.request("c", "db")
    harness.poller.advance(PATIENCE)
    assert harness.begun() == ["a", "b"]
    harness.finish(0, "a db")
    harness.finish(1, "b")
    harness.poller.advance(PATIENCE)
    assert harness.begun() == ["a", "b", "c"]


def test_a_call_that_may_take_long_shares_no_call_and_comes_last(harness: QueueHarness) -> None:
    harness.request("slow", alone=True)
    harness.request("a")
    harness.request("b")
    harness.poller.advance(2 * GATHER_TIME)
    harness.finish(0, "a b")
    assert harness.begun() == ["a b", "slow"]


def test_a_failed_call_is_repeated_in_parts_without_what_was_made(harness: QueueHarness) -> None:
    for name in "abcd":
        harness.request(name)
    harness.poller.advance(2 * GATHER_TIME)
    harness.finish(0, "a b", error="invalid mount")
    assert harness.ends == {"a": "", "b": ""}
    harness.finish(1, "c")
    harness.finish(2, error="invalid mount")
    assert harness.begun() == ["a b c d", "c", "d"]
    assert harness.ends == {"a": "", "b": "", "c": "", "d": "invalid mount"}


def test_the_others_of_an_interrupted_call_are_requested_again(harness: QueueHarness) -> None:
    creation = harness.request("a")
    harness.request("b")
    harness.poller.advance(2 * GATHER_TIME)
    assert not harness.queue.withdraw(creation)
    assert harness.calls.begun[0].interrupted
    harness.finish(0, error="interrupted")
    assert harness.ends == {"a": ""}
    harness.finish(1, "b")
    assert (harness.begun(), harness.ends) == (["a b", "b"], {"a": "", "b": ""})


def test_a_withdrawn_request_leads_to_no_call(harness: QueueHarness) -> None:
    assert harness.queue.withdraw(harness.request("a"))
    harness.poller.advance(GATHER_LIMIT)
    assert harness.begun() == []


def test_a_queue_cleared_while_gathering_makes_no_call(harness: QueueHarness) -> None:
    harness.request("a")
    harness.queue.clear()
    harness.poller.advance(GATHER_LIMIT)
    assert harness.begun() == []
