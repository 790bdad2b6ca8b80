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
from hostmanager_server.drivers.contract import Driver, Poller, PostEvent
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor import (
    CallSoon,
    ConfigError,
    InvalidRequestError,
    Supervisor,
    WrongStateError,
)

from tests.fakes.driver import FakeDriver, FakeHost
from tests.in_memory import MemoryJournal, ReadConfig
from tests.supervisor.conftest import spec

PATIENCE = 30.0


class Daemon:
    """A supervisor with fake agents."""

    def __init__(self) -> None:
        self.config = ReadConfig(HostSpec("host", (spec("a"), spec("b"))))
        self.load: Callable[[], ReadConfig] = lambda: self.config
        self.broken = threading.Event()
        self.store = Store("epoch", ManagerStatus(ManagerState.STOPPED, "host", "site.yaml"))
        self.supervisor = Supervisor(self.store, self._load, self._driver, MemoryJournal(), self.broken.set)
        self.supervisor.start()

    def _load(self) -> ReadConfig:
        return self.load()

    def _driver(self, poller: Poller, post: PostEvent, call_soon: CallSoon) -> Driver:
        self.host = FakeHost(poller)
        self.call_soon = call_soon
        self.driver = FakeDriver(poller, post, self.host)
        return self.driver

    @property
    def state(self) -> ManagerState:
        return self.store.snapshot().manager.state


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    it = Daemon()
    yield it
    it.supervisor.close(disown=True)


def test_an_answer_names_the_revision_that_shows_it(daemon: Daemon) -> None:
    started = daemon.supervisor.start_manager().result(PATIENCE)
    assert daemon.store.revision >= started.revision
    assert daemon.state is ManagerState.RUNNING
    down = daemon.supervisor.update([TargetChange("a", Target.DOWN)]).result(PATIENCE)
    assert down.generations == {"a": daemon.store.snapshot().instances["a"].instance.wanted.generation}


def test_a_stop_is_answered_when_no_process_is_alive(daemon: Daemon) -> None:
    daemon.supervisor.start_manager().result(PATIENCE)
    both = [daemon.supervisor.stop_manager(), daemon.supervisor.stop_manager()]
    for future in both:
        future.result(PATIENCE)
    assert not daemon.host.runs
    assert daemon.state is ManagerState.STOPPED


def test_a_rejection_is_the_exception_of_the_future(daemon: Daemon) -> None:
    with pytest.raises(WrongStateError, match="StartManager"):
        daemon.supervisor.update([TargetChange("a", Target.UP)]).result(PATIENCE)
    daemon.supervisor.start_manager().result(PATIENCE)
    with pytest.raises(InvalidRequestError, match="'x'"):
        daemon.supervisor.update([TargetChange("x", Target.UP)]).result(PATIENCE)


def test_a_config_with_errors_is_rejected_unless_tolerant(daemon: Daemon) -> None:
    good, daemon.config = daemon.config, ReadConfig(None)
    with pytest.raises(ConfigError):
        daemon.supervisor.start_manager().result(PATIENCE)
    assert daemon.state is ManagerState.STOPPED
    daemon.supervisor.start_manager(tolerant=True).result(PATIENCE)
    assert not daemon.store.snapshot().instances
    daemon.config = good
    daemon.supervisor.update(reload_config=True).result(PATIENCE)
    assert set(daemon.store.snapshot().instances) == {"a", "b"}


def test_an_error_of_the_config_reader_goes_to_the_caller(daemon: Daemon) -> None:
    def fail() -> ReadConfig:
        raise ValueError("on purpose")

    daemon.load = fail
    with pytest.raises(ValueError, match="on purpose"):
        daemon.supervisor.start_manager().result(PATIENCE)
    assert daemon.state is ManagerState.STOPPED


def test_a_request_that_is_cancelled_before_its_turn_is_not_carried_out(daemon: Daemon) -> None:
    daemon.supervisor.start_manager().result(PATIENCE)
    gate = threading.Event()

    def hold() -> None:
        gate.wait(PATIENCE)

    daemon.call_soon(hold)
    future = daemon.supervisor.update([TargetChange("a", Target.DOWN)])
    assert future.cancel()
    gate.set()
    daemon.supervisor.update([TargetChange("b", Target.DOWN)]).result(PATIENCE)
    targets = {i: t.instance.wanted.target for i, t in daemon.store.snapshot().instances.items()}
    assert targets == {"a": Target.UP, "b": Target.DOWN}


def test_a_cancelled_stop_request_does_not_hold_up_the_others(daemon: Daemon) -> None:
    daemon.supervisor.start_manager().result(PATIENCE)
    leaving: Future[object] = daemon.supervisor.stop_manager()  # type: ignore[assignment]  # only cancelled
    leaving.cancel()
    daemon.supervisor.stop_manager().result(PATIENCE)
    assert daemon.state is ManagerState.STOPPED


def test_disowned_processes_run_on() -> None:
    daemon = Daemon()
    daemon.supervisor.start_manager().result(PATIENCE)
    daemon.supervisor.close(disown=True)
    assert {run.key.instance_id for run in daemon.host.runs} == {"a", "b"}


def test_a_bug_in_the_reconciler_calls_on_failure(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> int:
        raise ValueError("on purpose")

    monkeypatch.setattr(daemon.store, "publish", broken)
    daemon.supervisor.log(LogEntry(EntryKind.DAEMON, "Test", "to be published", Instant(0.0, 0.0)))
    assert daemon.broken.wait(PATIENCE)


def test_warnings_of_a_good_config_are_part_of_the_answer(daemon: Daemon) -> None:
    warning = Problem(Severity.WARNING, "unknown key", "site.yaml", 2, 1)
    daemon.config = ReadConfig(daemon.config.spec, (warning,))
    assert daemon.supervisor.start_manager().result(PATIENCE).warnings == (warning,)


def test_a_request_before_close_is_carried_out_and_its_run_disowned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = Daemon()
    daemon.config = ReadConfig(HostSpec("host", (spec("a", initial_target=Target.DOWN),)))
    daemon.supervisor.start_manager().result(PATIENCE)
    done: list[str] = []
    for name in ("launch", "disown", "close"):
        monkeypatch.setattr(daemon.driver, name, _recorded(done, name, getattr(daemon.driver, name)))
    held, both_are_asked = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        both_are_asked.wait(PATIENCE)

    daemon.call_soon(hold)
    assert held.wait(PATIENCE)
    up = daemon.supervisor.update([TargetChange("a", Target.UP)])
    closing = threading.Thread(target=daemon.supervisor.close, kwargs={"disown": True})
    closing.start()
    inbox = daemon.supervisor._loop._callbacks
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
