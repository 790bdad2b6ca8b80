"""Pidfds that the service manager keeps while no daemon is alive."""

from __future__ import annotations

import array
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import ExitStatus, RunKey
from hostmanager_server.drivers.process.records import descriptor_store
from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore
from hostmanager_server.linux.sd_notify import NotifySocket

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)
# From Linux 6.15 on, a pidfd reports the exit status of a process that another one reaped.
KERNEL = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


class FakeSystemd:
    """A service manager that stores descriptors as systemd does."""

    def __init__(self, name: Path) -> None:
        self.name = str(name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.name)
        self._socket.setblocking(False)
        self.kept: list[tuple[str, int]] = []

    def store(self, handed: dict[str, int] | None = None) -> DescriptorStore:
        """Return the descriptor store of a service of this manager."""
        return DescriptorStore(NotifySocket.from_environment({"NOTIFY_SOCKET": self.name}), handed or {})

    def take(self) -> dict[str, int]:
        """Return copies of the stored descriptors, without removed ones."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(4))
            except BlockingIOError:
                break
            fields = dict(line.split("=", 1) for line in data.decode().split("\n"))
            received = array.array("i", b"".join(part for _, _, part in ancillary))
            if fields.get("FDSTORE") == "1":
                assert fields["FDPOLL"] == "0"
                self.kept += [(fields["FDNAME"], descriptor) for descriptor in received]
            elif fields.get("FDSTOREREMOVE") == "1":
                for name, descriptor in [k for k in self.kept if k[0] == fields["FDNAME"]]:
                    self.kept.remove((name, descriptor))
                    os.close(descriptor)
        assert len(self.kept) == len({name for name, _ in self.kept})
        return {name: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for name, fd in self.kept}

    def names(self) -> set[str]:
        taken = self.take()
        for descriptor in taken.values():
            os.close(descriptor)
        return set(taken)

    def close(self) -> None:
        for _, descriptor in self.kept:
            os.close(descriptor)
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeSystemd]:
    it = FakeSystemd(tmp_path / "notify")
    yield it
    it.close()


def test_a_stored_pidfd_gives_the_exit_status_of_an_agent_that_ended_meanwhile(
    real: ProcessHarness, manager: FakeSystemd
) -> None:
    real.use(manager.store())
    real.driver.launch(A, real.script("a", f"trap 'exit 7' TERM; : > {real.settled('a')}; sleep 1000 & wait"))
    real.settle("a")
    real.driver.disown()
    os.kill(real.pid("a"), signal.SIGTERM)
    os.waitpid(real.pid("a"), 0)  # as the inheriting process does
    real.use(manager.store(manager.take()))
    (adopted,) = real.driver.adopt({})
    assert adopted.ended == (ExitStatus(code=7) if KERNEL >= (6, 15) else ExitStatus())
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: manager.names() == set())


def test_a_stored_pidfd_of_another_process_gives_no_exit_status(
    real: ProcessHarness, manager: FakeSystemd
) -> None:
    with subprocess.Popen(["true"]) as other:
        pidfd = os.pidfd_open(other.pid)
    real.use(manager.store())
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    (token,) = manager.names()
    real.driver.disown()
    os.kill(real.pid("a"), signal.SIGKILL)
    os.waitpid(real.pid("a"), 0)
    real.use(manager.store({token: pidfd}))
    (adopted,) = real.driver.adopt({})
    assert adopted.ended == ExitStatus()


def test_one_pidfd_is_stored_for_each_living_run(real: ProcessHarness, manager: FakeSystemd) -> None:
    real.use(manager.store())
    for instance_id in "ab":
        real.driver.launch(RunKey(instance_id, 1), real.command(instance_id, "sleep", "1000"))
    both = manager.names()
    assert len(both) == 2
    real.use(manager.store(manager.take() | {"stale": os.pidfd_open(os.getpid())}))
    assert len(real.driver.adopt({})) == 2
    assert manager.names() == both
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: len(manager.names()) == 1)
    real.use(manager.store())  # upgrade: no descriptor is passed, and all stay stored
    assert len(real.driver.adopt({})) == 1
    real.driver.stop(RunKey("b", 1), signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: manager.names() == set())


def test_no_pidfd_stays_for_a_run_that_ended_during_an_upgrade(
    real: ProcessHarness, manager: FakeSystemd
) -> None:
    real.use(manager.store())
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    assert len(manager.names()) == 1
    real.driver.disown()
    os.kill(real.pid("a"), signal.SIGKILL)
    os.waitid(os.P_PID, real.pid("a"), os.WEXITED | os.WNOWAIT)
    real.use(manager.store())
    (adopted,) = real.driver.adopt({})
    assert adopted.gone
    assert manager.names() == set()


def test_no_more_pidfds_are_stored_than_can_be_passed(
    real: ProcessHarness, manager: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_store, "MAX_STORED", 1)
    real.use(manager.store())
    for instance_id in "ab":
        real.driver.launch(RunKey(instance_id, 1), real.command(instance_id, "sleep", "1000"))
    assert len(manager.names()) == 1


def test_passed_descriptors_are_taken_once() -> None:
    # In a separate process, because the descriptors have fixed numbers.
    code = (
        "import os\n"
        "from hostmanager_server.drivers.process.records.descriptor_store import DescriptorStore as S\n"
        "os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.dup2(1, 3); os.dup2(1, 4);"
        "first, second = S.from_environment(os.environ), S.from_environment(os.environ);"
        "print(first.passed('x'), first.passed('y'), second.passed('x'));"
        "print(os.get_inheritable(3), 'LISTEN_FDS' in os.environ)"
    )
    environ = os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "x:y"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", "4", "None", "False", "False"]
