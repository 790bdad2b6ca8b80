"""Exhausted limits on descriptors, processes and threads: reported, retried, and without loss."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import COMMAND, Daemon, Site
from tests.faults.machine import require
from tests.waiting import wait_until

UP = pb.NEXT_ACTION_UP
SLEEP = {"command": ["sleep", "100000"], "restart": {"backoff": {"initial": 0.05, "maximum": 0.2}}}


def kill(daemon: Daemon, instance_id: str) -> int:
    pid = daemon.instance(instance_id).process.pid
    os.kill(pid, signal.SIGKILL)
    return pid


@contextmanager
def no_descriptors(daemon: Daemon) -> Iterator[None]:
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_an_agent_that_ends_without_free_descriptors_restarts_once_there_are_some(site: Site) -> None:
    site.write([{"instance-id": i, **SLEEP} for i in "ab"])
    daemon = site.start()
    daemon.wait_for_all(UP)
    kept = daemon.instance("b").process.pid
    with no_descriptors(daemon):
        kill(daemon, "a")
        wait_until(lambda: daemon.instance("a").next_action != UP, "the exit to be observed")
        for _ in range(100):  # these clients wait, and must not break the daemon
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(site.socket))
    daemon.wait_for("a", UP)
    assert daemon.instance("b").process.pid == kept
    log = daemon.log.read_text()
    assert "Traceback" not in log
    assert log.count("cannot scan for survivors") <= 1


def test_clients_cannot_take_the_descriptors_that_agents_need(site: Site) -> None:
    site.write([{"instance-id": i, **SLEEP} for i in "ab"])
    daemon = site.start(program=["prlimit", "--nofile=128:128", COMMAND])
    daemon.wait_for_all(UP)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(site.socket))  # clients beyond the backlog are refused at once
        before = kill(daemon, "a")
        wait_until(lambda: daemon.instance("a").process.pid not in (0, before), "a to be replaced")
    finally:
        for client in clients:
            client.close()
    assert failures(daemon) == []
    wait_until(lambda: answers(site), "new clients to be accepted")


def failures(daemon: Daemon) -> list[str]:
    return [e.message for e in daemon.events() if e.reason == "StartFailed"]


def answers(site: Site) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(site.socket))
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            return bool(client.recv(1))
        except OSError:
            return False


class PidsGroup:
    """A cgroup that limits the number of processes and threads."""

    def __init__(self, name: str) -> None:
        roots = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
        usable = [root for root in roots if (root / "cgroup.procs").exists() and os.access(root, os.W_OK)]
        require("a writable cgroup hierarchy with the pids controller", available=bool(usable))
        self.folder = usable[0] / name
        self.folder.mkdir()
        require("the pids controller in the root cgroup", available=(self.folder / "pids.max").exists())

    def add(self, pid: int) -> None:
        """Move a process into the group."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def allow(self, more: int | None) -> None:
        """Allow `more` processes beyond the present ones; None: no limit."""
        now = int((self.folder / "pids.current").read_text())
        (self.folder / "pids.max").write_text("max" if more is None else str(now + more))

    def close(self) -> None:
        def empty() -> bool:
            remaining = (self.folder / "cgroup.procs").read_text().split()
            for pid in remaining:
                with suppress(ProcessLookupError):
                    (self.folder.parent / "cgroup.procs").write_text(pid)
            return not remaining

        wait_until(empty, "the group to be empty")
        self.folder.rmdir()


@pytest.fixture
def pids(site: Site) -> Iterator[PidsGroup]:
    group = PidsGroup(f"hostmanager-test-{os.getpid()}-{id(site)}")
    yield group
    group.close()


def test_a_start_beyond_the_process_limit_fails_and_is_retried(site: Site, pids: PidsGroup) -> None:
    site.write([{"instance-id": i, **SLEEP} for i in "ab"])
    daemon = site.start()
    daemon.wait_for_all(UP)
    kept = daemon.instance("b").process.pid
    pids.add(daemon.pid)
    pids.allow(0)
    killed = {0, kill(daemon, "a")}

    def refused() -> list[str]:
        pid = daemon.instance("a").process.pid
        if pid not in killed:  # an ended thread of the daemon left room for the process
            pids.allow(0)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return failures(daemon)

    assert "too many processes; raise nproc or kernel.pid_max" in wait_until(refused, "a to be refused")[-1]
    assert daemon.instance("b").process.pid == kept
    daemon.update(b="down")  # a stop needs no new process
    daemon.wait_for("b", pb.NEXT_ACTION_DOWN)
    pids.allow(None)
    daemon.wait_for("a", UP)
    assert "Traceback" not in daemon.log.read_text()


def test_a_readiness_probe_runs_once_a_thread_can_start(site: Site, pids: PidsGroup) -> None:
    probed = {**SLEEP, "ready": {"command": ["true"], "interval": 0.05}}
    site.write([{"instance-id": "a", **probed, "manage": "down"}, {"instance-id": "b", **SLEEP}])
    daemon = site.start()
    daemon.wait_for("b", UP)
    pids.add(daemon.pid)
    pids.allow(1)  # room for the agent, but not for the thread of its probe
    daemon.update(a="up")

    def reported() -> bool:
        if daemon.instance("a").next_action == pb.NEXT_ACTION_START_AT:
            pids.allow(1)  # a thread of the daemon took the room
        return "cannot start the thread of the probes" in daemon.log.read_text()

    wait_until(reported, "the warning")
    pid = daemon.wait_for("a", pb.NEXT_ACTION_WAIT_START).process.pid
    pids.allow(None)
    assert daemon.wait_for("a", UP).process.pid == pid
    assert "Traceback" not in daemon.log.read_text()
