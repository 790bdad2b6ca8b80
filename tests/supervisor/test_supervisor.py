"""The supervisor as other threads use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from hostmanager_server.core.event_log import EntryKind, LogEntry, Severity
from hostmanager_server.core.events import Instant
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus, Problem
from hostmanager_server.core.plan import TargetChange
from hostmanager_server.core.spec import HostSpec, Target
from hostmanager_server.drivers.contract import CallSoon, Driver, Poller, PostEvent
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import (
    ConfigError,
    InvalidRequestError,
    Supervisor,
    WrongStateError,
)

from tests.fakes.driver import FakeDriver, FakeDriverHost
from tests.in_memory import MemoryConfig, MemoryJournal
from tests.supervisor.conftest import spec

PATIENCE = 30.0


class SupervisorHarness:
    """A supervisor with fake agents."""

    def __init__(self) -> None:
        self.config = MemoryConfig(HostSpec("host", (spec("a"), spec("b"))))
        self.load: Callable[[], MemoryConfig] = lambda: self.config
        self.broken = threading.Event()
        self.store = Store("epoch", ManagerStatus(ManagerState.STOPPED, "host", "site.yaml"))
        self.supervisor = Supervisor(self.store, self._load, self._driver, MemoryJournal(), self.broken.set)
        self.supervisor.start()

    def _load(self) -> MemoryConfig:
        return self.load()

    def _driver(self, poller: Poller, post: PostEvent, call_soon: CallSoon) -> Driver:
        self.host = FakeDriverHost(poller)
        self.call_soon = call_soon
        self.driver = FakeDriver(poller, post, self.host)
        return self.driver

    @property
    def state(self) -> ManagerState:
        return self.store.snapshot().manager.state


@pytest.fixture
def harness() -> Iterator[SupervisorHarness]:
    harness = SupervisorHarness()
    yield harness
    harness.supervisor.close(disown=True)


def test_an_answer_names_the_revision_that_shows_it(harness: SupervisorHarness) -> None:
    started = harness.supervisor.start_manager().result(PATIENCE)
    assert harness.store.revision >= started.revision
    assert harness.state is ManagerState.RUNNING
    down = harness.supervisor.update([TargetChange("a", Target.DOWN)]).result(PATIENCE)
    assert down.generations == {"a": harness.store.snapshot().instances["a"].instance.wanted.generation}


def test_a_stop_is_answered_when_no_process_is_alive(harness: SupervisorHarness) -> None:
    harness.supervisor.start_manager().result(PATIENCE)
    both = [harness.supervisor.stop_manager(), harness.supervisor.stop_manager()]
    for future in both:
        future.result(PATIENCE)
    assert not harness.host.runs
    assert harness.state is ManagerState.STOPPED


def test_a_rejection_is_the_exception_of_the_future(harness: SupervisorHarness) -> None:
    with pytest.raises(WrongStateError, match="StartManager"):
        harness.supervisor.update([TargetChange("a", Target.UP)]).result(PATIENCE)
    harness.supervisor.start_manager().result(PATIENCE)
    with pytest.raises(InvalidRequestError, match="'x'"):
        harness.supervisor.update([TargetChange("x", Target.UP)]).result(PATIENCE)


def test_a_config_with_errors_is_rejected_unless_tolerant(harness: SupervisorHarness) -> None:
    good, harness.config = harness.config, MemoryConfig(None)
    with pytest.raises(ConfigError):
        harness.supervisor.start_manager().result(PATIENCE)
    assert harness.state is ManagerState.STOPPED
    harness.supervisor.start_manager(tolerant=True).result(PATIENCE)
    assert not harness.store.snapshot().instances
    harness.config = good
    harness.supervisor.update(reload_config=True).result(PATIENCE)
    assert set(harness.store.snapshot().instances) == {"a", "b"}


def test_an_error_of_the_config_reader_goes_to_the_caller(harness: SupervisorHarness) -> None:
    def fail() -> MemoryConfig:
        raise ValueError("on purpose")

    harness.load = fail
    with pytest.raises(ValueError, match="on purpose"):
        harness.supervisor.start_manager().result(PATIENCE)
    assert harness.state is ManagerState.STOPPED


def test_a_request_that_is_cancelled_before_its_turn_is_not_carried_out(harness: SupervisorHarness) -> None:
    harness.supervisor.start_manager().result(PATIENCE)
    gate = threading.Event()

    def hold() -> None:
        gate.wait(PATIENCE)

    harness.call_soon(hold)
    future = harness.supervisor.update([TargetChange("a", Target.DOWN)])
    assert future.cancel()
    gate.set()
    harness.supervisor.update([TargetChange("b", Target.DOWN)]).result(PATIENCE)
    targets = {i: t.instance.wanted.target for i, t in harness.store.snapshot().instances.items()}
    assert targets == {"a": Target.UP, "b": Target.DOWN}


def test_a_cancelled_stop_request_does_not_hold_up_the_others(harness: SupervisorHarness) -> None:
    harness.supervisor.start_manager().result(PATIENCE)
    leaving: Future[object] = harness.supervisor.stop_manager()  # type: ignore[assignment]  # only cancelled
    leaving.cancel()
    harness.supervisor.stop_manager().result(PATIENCE)
    assert harness.state is ManagerState.STOPPED


def test_disowned_processes_run_on() -> None:
    harness = SupervisorHarness()
    harness.supervisor.start_manager().result(PATIENCE)
    harness.supervisor.close(disown=True)
    assert {run.key.instance_id for run in harness.host.runs} == {"a", "b"}


def test_a_bug_in_the_reconciler_calls_on_failure(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> int:
        raise ValueError("on purpose")

    monkeypatch.setattr(harness.store, "publish", broken)
    harness.supervisor.log(LogEntry(EntryKind.DAEMON, "Test", "to be published", Instant(0.0, 0.0)))
    assert harness.broken.wait(PATIENCE)


def test_warnings_of_a_good_config_are_part_of_the_answer(harness: SupervisorHarness) -> None:
    warning = Problem(Severity.WARNING, "unknown key", "site.yaml", 2, 1)
    harness.config = MemoryConfig(harness.config.spec, (warning,))
    assert harness.supervisor.start_manager().result(PATIENCE).warnings == (warning,)


def test_a_request_before_close_is_carried_out_and_its_run_disowned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = SupervisorHarness()
    harness.config = MemoryConfig(HostSpec("host", (spec("a", initial_target=Target.DOWN),)))
    harness.supervisor.start_manager().result(PATIENCE)
    done: list[str] = []
    for name in ("launch", "disown", "close"):
        monkeypatch.setattr(harness.driver, name, _recorded(done, name, getattr(harness.driver, name)))
    held, both_are_asked = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        both_are_asked.wait(PATIENCE)

    harness.call_soon(hold)
    assert held.wait(PATIENCE)
    up = harness.supervisor.update([TargetChange("a", Target.UP)])
    closing = threading.Thread(target=harness.supervisor.close, kwargs={"disown": True})
    closing.start()
    inbox = harness.supervisor._loop._callbacks
    while len(inbox) < 3:  # the update, and the callbacks of `close`
        time.sleep(0.001)
    both_are_asked.set()
    closing.join(PATIENCE)
    up.result(PATIENCE)
    assert done[:3] == ["launch", "disown", "close"]
    assert "launch" not in done[3:]


def _recorded(done: list[str], name: str, call: Callable[..., None]) -> Callable[..., None]:
    def recorded(*arguments: object) -> None:
        done.append(name)
        call(*arguments)

    return recorded
