"""Fixtures for the driver tests: an epoll poller, and harnesses over the drivers."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from hostmanager_server.core.events import (
    DriverEvent,
    ExitStatus,
    Gone,
    Instant,
    RunKey,
    Started,
    StartFailed,
)
from hostmanager_server.core.spec import InstanceSpec, LogPolicy, ProcessSpec, ReadinessProbe
from hostmanager_server.drivers.contract import Driver, Output, Timer
from hostmanager_server.drivers.output.last_output import mark_end, read_last_output, resume_mark
from hostmanager_server.drivers.output.stream import OutputMark, OutputStream
from hostmanager_server.drivers.process import tree_tracker
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.drivers.process.driver import ProcessDriver
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.linux import child_signals
from hostmanager_server.linux.pidfds import read_stat
from hostmanager_server.linux.subreaper import Orphans, set_subreaper

from tests.docker_engine import MakeProject
from tests.drivers.compose_harness import ComposeHarness
from tests.fakes.driver import Behaviour, FakeDriver, FakeDriverHost, FakePoller

DEADLINE = 30.0  # s, although conditions hold at once on an idle machine


class _TimedCall:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class EpollPoller:
    """A Poller on epoll, which the test turns."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._calls: list[tuple[float, int, _TimedCall]] = []
        self._order = itertools.count()
        self._soon: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        call = _TimedCall(callback)
        heapq.heappush(self._calls, (time.monotonic() + seconds, next(self._order), call))
        return call

    def now(self) -> Instant:
        return Instant(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run a callable on the thread that turns the poller; callable from any thread."""
        self._soon.append(callback)
        os.eventfd_write(self._wake, 1)

    def turn(self, seconds: float) -> None:
        """Wait once, for at most `seconds`, and run the callbacks that are due."""
        if self._calls:
            seconds = max(0.0, min(seconds, self._calls[0][0] - time.monotonic()))
        for fd, _ in self._epoll.poll(seconds):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                while self._soon:
                    self._soon.popleft()()
            elif fd in self._callbacks:
                self._callbacks[fd]()
        while self._calls and self._calls[0][0] <= time.monotonic():
            call = heapq.heappop(self._calls)[2]
            if call.callback is not None:
                call.callback()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Turn until the condition holds, with a check every 2 ms.

        Some conditions show in /proc only, without a wake-up.
        """
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            self.turn(0.002)

    def wake_all(self) -> None:
        """Call every callback without a reason."""
        for callback in list(self._callbacks.values()):
            callback()

    @property
    def watched(self) -> int:
        return len(self._callbacks)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake)


class PlainOutput:
    """Output without rotation: one file per instance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open_for_append(self, instance_id: str, policy: LogPolicy) -> int:
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.directory / f"{instance_id}.log", flags, 0o644)

    def resume(self, instance_id: str, policy: LogPolicy) -> None:
        """Do nothing, because no file is rotated."""

    def forget(self, instance_id: str, policy: LogPolicy) -> None:
        """Do nothing, because no file is rotated."""

    def mark(self, instance_id: str, policy: LogPolicy, fd: int) -> OutputMark:
        return mark_end(self._stream(instance_id), fd)

    def resume_mark(
        self, instance_id: str, policy: LogPolicy, recorded: OutputMark | None
    ) -> OutputMark | None:
        return resume_mark(self._stream(instance_id), recorded)

    def last_output(self, instance_id: str, policy: LogPolicy, mark: OutputMark | None) -> str:
        return read_last_output(self._stream(instance_id), mark)

    def _stream(self, instance_id: str) -> OutputStream:
        return OutputStream(self.directory / f"{instance_id}.log")


class Harness(Protocol):
    """A driver under test, and questions about its surroundings."""

    events: list[DriverEvent]
    killed: ExitStatus  # the exit status after SIGKILL

    @property
    def driver(self) -> Driver: ...

    def spec(
        self, instance_id: str, behaviour: Behaviour, ready: ReadinessProbe | None = None
    ) -> InstanceSpec:
        """Return the spec of an instance with this behaviour."""

    def settle(self, instance_id: str) -> None:
        """Wait until the running agent has taken on its behaviour."""

    def wait_for(self, condition: Callable[[], bool]) -> None: ...

    def alive(self, instance_id: str) -> bool:
        """Return whether any process of the instance is alive, as seen by the test."""

    def crash(self, instance_id: str) -> None:
        """Kill the main process of the instance from outside."""

    def replace_driver(self) -> None:
        """Disown all runs, and replace the driver by a new one."""


class FakeHarness:
    killed = ExitStatus(signal=signal.SIGKILL)

    def __init__(self) -> None:
        self.poller = FakePoller()
        self.host = FakeDriverHost(self.poller)
        self.events: list[DriverEvent] = []
        self.driver: Driver = FakeDriver(self.poller, self.events.append, self.host)

    def spec(
        self, instance_id: str, behaviour: Behaviour, ready: ReadinessProbe | None = None
    ) -> InstanceSpec:
        self.host.behave(instance_id, behaviour)
        return InstanceSpec(instance_id, "Fake", process=ProcessSpec(("fake",)), ready=ready)

    def settle(self, instance_id: str) -> None:
        assert self.host.run_of(instance_id) is not None

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = self.poller.now().mono + DEADLINE
        while not condition():
            assert self.poller.now().mono < deadline, "the condition never held"
            self.poller.advance(0.01)

    def alive(self, instance_id: str) -> bool:
        return self.host.run_of(instance_id) is not None

    def crash(self, instance_id: str) -> None:
        self.host.crash(instance_id, ExitStatus(signal=signal.SIGKILL))

    def replace_driver(self) -> None:
        self.driver.disown()
        self.driver = FakeDriver(self.poller, self.events.append, self.host)


class ProcessHarness:
    """The process driver, with small shell scripts as agents."""

    killed = ExitStatus(signal=signal.SIGKILL)

    def __init__(self, directory: Path, cgroup: Path | None = None, *, lists_orphans: bool = True) -> None:
        self.directory = directory
        self._lists_orphans = lists_orphans  # False: as on a kernel without CONFIG_PROC_CHILDREN
        set_subreaper()
        self.cgroup = cgroup  # the parent of the runs' cgroups; None: no cgroups
        self.poller = EpollPoller()
        self.events: list[DriverEvent] = []
        self._seen: dict[str, dict[int, int]] = {}  # pids and their start times, by instance id
        self.driver: ProcessDriver = self._new_driver()

    def _new_driver(self) -> ProcessDriver:
        return self.new_driver(PlainOutput(self.directory / "log"))

    def use(self, store: DescriptorStore) -> None:
        """Disown all runs, and replace the driver by one with this store."""
        self.driver.disown()
        self.driver.close()
        self.driver = self.new_driver(PlainOutput(self.directory / "log"), store)

    def new_driver(self, output: Output, store: DescriptorStore | None = None) -> ProcessDriver:
        """Return another driver with the same state directory."""
        orphans = Orphans(None if self._lists_orphans else self.directory / "no-children")
        orphans.listen()
        return ProcessDriver(
            self.poller,
            self.events.append,
            self.directory,
            output,
            epoch=os.urandom(8).hex(),
            call_soon=self.poller.call_soon,
            groups=Cgroups(None if self.cgroup is None else str(self.cgroup / "agents")),
            store=store,
            orphans=orphans,
        )

    def spec(
        self, instance_id: str, behaviour: Behaviour, ready: ReadinessProbe | None = None
    ) -> InstanceSpec:
        if behaviour.cannot_start:
            return self.command(instance_id, "/nonexistent/agent")
        lines = []
        if behaviour.ignores:
            lines.append(f"trap '' {' '.join(str(number) for number in sorted(behaviour.ignores))}")
        if behaviour.descendants:
            lines.append("(setsid sleep 1000 &)")
        lines.append(f": > {self.settled(instance_id)}")
        if behaviour.exits_after is None:
            lines.append("while :; do sleep 1000; done" if behaviour.ignores else "exec sleep 1000")
        else:
            lines.append(f"sleep {behaviour.exits_after}")
            status = behaviour.status
            lines.append(f"kill -{status.signal} $$" if status.signal else f"exit {status.code}")
        return self.script(instance_id, "\n".join(lines), ready=ready)

    def script(self, instance_id: str, text: str, ready: ReadinessProbe | None = None) -> InstanceSpec:
        """Return the spec of an instance that runs a shell script."""
        return replace(self.command(instance_id, "/bin/sh", "-c", text), ready=ready)

    def command(self, instance_id: str, *argv: str) -> InstanceSpec:
        return InstanceSpec(instance_id, "Test", process=ProcessSpec(argv))

    def records(self) -> list[str]:
        """Return the names of the valid runtime records."""
        return [name for name in os.listdir(self.directory / "runs") if not name.endswith(".free")]

    def settled(self, instance_id: str) -> Path:
        """Return the file that the agent creates when it has taken on its behaviour."""
        return self.directory / f"{instance_id}.settled"

    def settle(self, instance_id: str) -> None:
        settled = self.settled(instance_id)
        self.wait_for(lambda: settled.exists() or any(isinstance(e, StartFailed) for e in self.events))
        assert settled.exists(), self.events

    def wait_for(self, condition: Callable[[], bool]) -> None:
        self.poller.wait_for(condition)

    def alive(self, instance_id: str) -> bool:
        found = find_processes_with(
            f"HOSTMANAGER_TEST={self.directory}\0", f"HOSTMANAGER_INSTANCE_ID={instance_id}\0"
        )
        seen = self._seen.setdefault(instance_id, {})
        seen.update((pid, stat.start) for pid in found if (stat := read_stat(pid)) is not None)
        # An exiting process loses its environment before it dies.
        return any(
            (stat := read_stat(pid)) is not None and stat.alive and stat.start == start
            for pid, start in seen.items()
        )

    def crash(self, instance_id: str) -> None:
        self.alive(instance_id)  # remembers the pids while the environment is readable
        os.kill(self.pid(instance_id), signal.SIGKILL)

    def pid(self, instance_id: str) -> int:
        """Return the pid of the instance's latest run."""
        pids = [e.pid for e in self.events if isinstance(e, Started) and e.run.instance_id == instance_id]
        return pids[-1]

    def run(self, spec: InstanceSpec, number: int = 1) -> str:
        """Launch the spec, wait for the end and return the output."""
        key = RunKey(spec.instance_id, number)
        self.driver.launch(key, spec)
        self.wait_for(lambda: any(isinstance(e, Gone | StartFailed) and e.run == key for e in self.events))
        log = self.directory / "log" / f"{spec.instance_id}.log"
        return log.read_text() if log.exists() else ""

    def replace_driver(self) -> None:
        self.driver.disown()
        self.driver.close()
        self.driver = self._new_driver()

    def close(self) -> None:
        self.driver.close()
        for process in find_processes_with(f"HOSTMANAGER_TEST={self.directory}\0"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for event in self.events:
            if isinstance(event, Started):
                with contextlib.suppress(ChildProcessError):  # reaped: another process may have the pid
                    os.waitid(os.P_PID, event.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    os.kill(event.pid, signal.SIGKILL)  # during an exec the environment reads empty
                    os.waitpid(event.pid, 0)
        self.poller.close()
        set_subreaper(enabled=False)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child_signals.unblock()


def find_processes_with(*texts: str) -> list[int]:
    """Return the pids of living processes with all these texts in their environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and name != str(os.getpid()):
            with contextlib.suppress(OSError):
                environ = Path("/proc", name, "environ").read_bytes()
                if all(text.encode() in environ for text in texts):
                    found.append(int(name))
    return found


@pytest.fixture
def findable_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Marks the agents, so that `close` finds those of a failed test.
    monkeypatch.setenv("HOSTMANAGER_TEST", str(tmp_path))
    # While other programs start processes all the time, the scan at adoption may not settle within the
    # daemon's patience. The driver then reports the end of a run a little later.
    monkeypatch.setattr(tree_tracker, "_SURVIVOR_SCANS", 100_000)


@pytest.fixture
def real(tmp_path: Path, findable_agents: None) -> Iterator[ProcessHarness]:
    harness = ProcessHarness(tmp_path)
    yield harness
    harness.close()


@pytest.fixture
def scanning(tmp_path: Path, findable_agents: None) -> Iterator[ProcessHarness]:
    """Return a harness on a kernel that lists no orphans."""
    harness = ProcessHarness(tmp_path, lists_orphans=False)
    yield harness
    harness.close()


@pytest.fixture
def grouped(tmp_path: Path, cgroup: Path, findable_agents: None) -> Iterator[ProcessHarness]:
    """Return a harness of the process driver with a cgroup for each run."""
    harness = ProcessHarness(tmp_path, cgroup)
    yield harness
    harness.close()


@pytest.fixture
def compose(compose_project: MakeProject, image: str) -> Iterator[ComposeHarness]:
    poller = EpollPoller()
    harness = ComposeHarness(poller, compose_project("services: {}\n"), image)
    yield harness
    harness.close()
    poller.close()


@pytest.fixture(params=["fake", "real", "grouped", "compose"])
def harness(request: pytest.FixtureRequest) -> Harness:
    if request.param == "fake":
        return FakeHarness()
    found: ProcessHarness | ComposeHarness = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fake", "real", "grouped"])
def processes(request: pytest.FixtureRequest) -> Harness:
    """Return a harness with processes as runs.

    Processes get signals, have descendants and are adopted.
    """
    if request.param == "fake":
        return FakeHarness()
    found: ProcessHarness = request.getfixturevalue(request.param)
    return found
