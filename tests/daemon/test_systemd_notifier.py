"""Notifications of the daemon to systemd, and the silence of a hung daemon."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostmanager_server.core.manager_status import ManagerState, ManagerStatus
from hostmanager_server.core.model import Instance, State, new_instance
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec, Target
from hostmanager_server.daemon.systemd_notifier import SystemdNotifier
from hostmanager_server.state.store import Store
from hostmanager_server.supervisor.loop import Loop

from tests.core.instances import with_fields

PATIENCE = 30.0
WATCHDOG = b"WATCHDOG=1"


@dataclass
class NotifyHarness:
    """systemd's notify socket, a daemon's two threads, and the notifier between them."""

    environ: dict[str, str]
    socket: socket.socket
    event_loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    supervisor: Loop = field(default_factory=Loop)
    store: Store = field(
        default_factory=lambda: Store("epoch", ManagerStatus(ManagerState.RUNNING, "host", "site.yaml"))
    )

    def __post_init__(self) -> None:
        self.threads = [
            threading.Thread(target=self.event_loop.run_forever),
            threading.Thread(target=self.supervisor.run, args=(lambda: None,)),
        ]
        for thread in self.threads:
            thread.start()
        self.notifier = asyncio.run_coroutine_threadsafe(self._make(), self.event_loop).result(PATIENCE)

    async def _make(self) -> SystemdNotifier:
        return SystemdNotifier(self.environ, self.store)

    def call(self, *steps: str) -> None:
        """Call these methods of the notifier, on the event loop."""

        async def go() -> None:
            for step in steps:
                if step == "starting":
                    self.notifier.starting(self.supervisor.call_soon)
                else:
                    getattr(self.notifier, step)()

        asyncio.run_coroutine_threadsafe(go(), self.event_loop).result(PATIENCE)

    def next(self) -> list[bytes]:
        """Return the lines of the next datagram."""
        return self.socket.recv(4096).split(b"\n")

    def until(self, line: bytes) -> list[bytes]:
        while line not in (lines := self.next()):
            pass
        return lines

    def drain(self) -> None:
        self.socket.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                self.socket.recv(4096)
        self.socket.settimeout(PATIENCE)

    def close(self) -> None:
        self.call("close")
        self.supervisor.stop()
        self.event_loop.call_soon_threadsafe(self.event_loop.stop)
        for thread in self.threads:
            thread.join()
        self.supervisor.close()
        self.event_loop.close()
        self.socket.close()


@contextmanager
def notify_harness(folder: Path, watchdog: float = 0.02) -> Iterator[NotifyHarness]:
    folder.mkdir(exist_ok=True)
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(str(folder / "notify"))
    ours.settimeout(PATIENCE)
    harness = NotifyHarness(
        {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(round(watchdog * 1e6)),
            "WATCHDOG_PID": str(os.getpid()),
        },
        ours,
    )
    try:
        yield harness
    finally:
        harness.close()


def instance(instance_id: str, state: State, target: Target = Target.UP) -> Instance:
    spec = InstanceSpec(instance_id, "Agent", process=ProcessSpec(("true",)))
    return with_fields(new_instance(spec, target), state=state)


@pytest.mark.parametrize("frozen", ["supervisor", "event loop"])
def test_the_watchdog_gets_no_keepalive_while_either_thread_hangs(tmp_path: Path, frozen: str) -> None:
    gate, frozen_now = threading.Event(), threading.Event()

    def hang() -> None:
        frozen_now.set()
        gate.wait(PATIENCE)

    with notify_harness(tmp_path / "hangs") as hangs, notify_harness(tmp_path / "lives") as lives:
        for daemon in (hangs, lives):
            daemon.call("starting", "ready")
            daemon.until(WATCHDOG)
        if frozen == "supervisor":
            hangs.supervisor.call_soon(hang)
        else:
            hangs.event_loop.call_soon_threadsafe(hang)
        assert frozen_now.wait(PATIENCE)
        if frozen == "supervisor":
            hangs.call()  # a keepalive already queued on the event loop is sent by now
        hangs.drain()
        lives.drain()
        for _ in range(5):  # waits for five keepalive intervals
            lives.until(WATCHDOG)
        hangs.socket.settimeout(0)
        with pytest.raises(BlockingIOError):
            hangs.socket.recv(4096)
        hangs.socket.settimeout(PATIENCE)
        gate.set()
        hangs.until(WATCHDOG)


def test_starting_and_ending_take_as_long_as_they_need(tmp_path: Path) -> None:
    with notify_harness(tmp_path) as daemon:
        daemon.call("starting")
        assert daemon.next() == [b"EXTEND_TIMEOUT_USEC=30000000"]
        daemon.call("ready")
        assert daemon.next()[0] == b"READY=1"
        daemon.call("stopping")
        daemon.until(b"STOPPING=1")
        daemon.until(b"EXTEND_TIMEOUT_USEC=30000000")


def test_the_status_says_which_instances_are_missing(tmp_path: Path) -> None:
    with notify_harness(tmp_path) as daemon:
        states = {"a": State.UP, "b": State.START_AT, "c": State.WAIT_START}
        daemon.store.publish([instance(i, s) for i, s in states.items()])
        daemon.store.publish([instance("d", State.DOWN, Target.DOWN)])
        daemon.call("starting", "ready")
        assert daemon.until(b"READY=1")[1] == b"STATUS=1 of 3 instances up, without b, c"
        daemon.store.publish([instance("b", State.UP), instance("c", State.UP)])
        daemon.until(b"STATUS=3 of 3 instances up")


def test_a_reload_before_the_daemon_serves_does_not_report_ready(tmp_path: Path) -> None:
    with notify_harness(tmp_path) as daemon:

        async def reload() -> None:
            with daemon.notifier.reloading():
                pass

        asyncio.run_coroutine_threadsafe(reload(), daemon.event_loop).result(PATIENCE)
        daemon.call("ready")
        assert daemon.next()[0] == b"READY=1"
        asyncio.run_coroutine_threadsafe(reload(), daemon.event_loop).result(PATIENCE)
        lines = daemon.until(b"RELOADING=1")
        assert lines[1].startswith(b"MONOTONIC_USEC=")
        assert daemon.until(b"READY=1") == [b"READY=1"]


def test_a_message_that_systemd_does_not_take_is_sent_again(tmp_path: Path) -> None:
    with notify_harness(tmp_path, watchdog=1000) as daemon:
        name = Path(daemon.environ["NOTIFY_SOCKET"])
        name.rename(tmp_path / "away")
        daemon.call("ready", "stopping")
        (tmp_path / "away").rename(name)
        assert daemon.next()[0] == b"READY=1"
        assert daemon.next()[0] == b"STOPPING=1"
