"""No descriptors, processes or threads left: said, waited for, and nothing is lost."""

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

from tests.e2e.daemon import COMMAND, Daemon, Site, eventually
from tests.faults.ground import need

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


def test_an_agent_that_ends_when_no_descriptors_are_left_is_back_once_there_are_some(site: Site) -> None:
    site.write([{"instance-id": i, **SLEEP} for i in "ab"])
    daemon = site.start()
    daemon.wait_for_all(UP)
    kept = daemon.instance("b").process.pid
    with no_descriptors(daemon):
        kill(daemon, "a")
        eventually(lambda: daemon.instance("a").next_action != UP, "the exit to be seen")
        for _ in range(100):  # who comes now waits, and is not the end of it
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(site.socket))
    daemon.wait_for("a", UP)
    assert daemon.instance("b").process.pid == kept
    said = daemon.log.read_text()
    assert "Traceback" not in said
    assert said.count("cannot look for what is left") <= 1


def test_clients_cannot_take_the_descriptors_that_agents_need(site: Site) -> None:
    site.write([{"instance-id": i, **SLEEP} for i in "ab"])
    daemon = site.start(program=["prlimit", "--nofile=128:128", COMMAND])
    daemon.wait_for_all(UP)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(site.socket))  # those beyond the backlog are turned away at once
        before = kill(daemon, "a")
        eventually(lambda: daemon.instance("a").process.pid not in (0, before), "a to be replaced")
    finally:
        for client in clients:
            client.close()
    assert failures(daemon) == []
    eventually(lambda: answers(site), "new clients to be let in again")


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
    """A cgroup whose number of processes and threads is limited."""

    def __init__(self, name: str) -> None:
        roots = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
        usable = [root for root in roots if (root / "cgroup.procs").exists() and os.access(root, os.W_OK)]
        need(bool(usable), "a writable cgroup hierarchy with the pids controller")
        self.folder = usable[0] / name
        self.folder.mkdir()
        need((self.folder / "pids.max").exists(), "the pids controller in the root cgroup")

    def take(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def let(self, more: int | None) -> None:
        """Let there be so many more than there are; None: as many as they like."""
        now = int((self.folder / "pids.current").read_text())
        (self.folder / "pids.max").write_text("max" if more is None else str(now + more))

    def close(self) -> None:
        def empty() -> bool:
            left = (self.folder / "cgroup.procs").read_text().split()
            for pid in left:
                with suppress(ProcessLookupError):
                    (self.folder.parent / "cgroup.procs").write_text(pid)
            return not left

        eventually(empty, "the group to be empty")
        self.folder.rmdir()


@pytest.fixture
def pids(site: Site) -> Iterator[PidsGroup]:
    group = PidsGroup(f"hostmanager-test-{os.getpid()}-{id(site)}")
    yield group
    group.close()


def test_where_no_process_can_be_started_it_is_said_and_tried_again(site: Site, pids: PidsGroup) -> None:
    site.write([{"instance-id": i, **SLEEP} for i in "ab"])
    daemon = site.start()
    daemon.wait_for_all(UP)
    kept = daemon.instance("b").process.pid
    pids.take(daemon.pid)
    pids.let(0)
    killed = {0, kill(daemon, "a")}

    def refused() -> list[str]:
        pid = daemon.instance("a").process.pid
        if pid not in killed:  # a thread of the daemon has ended, and left room for it
            pids.let(0)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return failures(daemon)

    assert "too many processes; raise nproc or kernel.pid_max" in eventually(refused, "a to be refused")[-1]
    assert daemon.instance("b").process.pid == kept
    daemon.update(b="down")  # a stop needs nothing
    daemon.wait_for("b", pb.NEXT_ACTION_DOWN)
    pids.let(None)
    daemon.wait_for("a", UP)
    assert "Traceback" not in daemon.log.read_text()


def test_an_agent_is_asked_whether_it_is_ready_once_a_thread_can_be_had(site: Site, pids: PidsGroup) -> None:
    probed = {**SLEEP, "ready": {"command": ["true"], "interval": 0.05}}
    site.write([{"instance-id": "a", **probed, "manage": "down"}, {"instance-id": "b", **SLEEP}])
    daemon = site.start()
    daemon.wait_for("b", UP)
    pids.take(daemon.pid)
    pids.let(1)  # for the agent; its probe needs a thread
    daemon.update(a="up")

    def said() -> bool:
        if daemon.instance("a").next_action == pb.NEXT_ACTION_START_AT:
            pids.let(1)  # a thread of the daemon came first
        return "cannot ask agents whether they are ready" in daemon.log.read_text()

    eventually(said, "it to be said")
    pid = daemon.wait_for("a", pb.NEXT_ACTION_WAIT_START).process.pid
    pids.let(None)
    assert daemon.wait_for("a", UP).process.pid == pid
    assert "Traceback" not in daemon.log.read_text()
