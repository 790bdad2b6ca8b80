"""Mistaken identities: reused pids, and runtime records of another boot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site
from tests.faults.machine import MountNamespace, require
from tests.waiting import wait_until

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN
COMMAND = ["sleep", "100000"]

# Starts a process with the pid in argv[1] (clone3, set_tid), and waits for its end.
AS_PID = """
import ctypes, os, signal, struct, sys
wanted = ctypes.c_int(int(sys.argv[1]))
# linux/sched.h: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, how many
arguments = struct.pack("=10Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1)
libc = ctypes.CDLL(None, use_errno=True)
pid = libc.syscall(435, arguments, len(arguments))
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
if pid < 0:
    sys.exit(ctypes.get_errno())
print(pid, flush=True)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0)
"""


class UnrelatedProcess:
    """An unrelated process with a chosen pid."""

    def __init__(self, pid: int) -> None:
        command = [sys.executable, "-c", AS_PID, str(pid), *COMMAND]
        self.pid = pid
        self._parent = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._parent.stdout is not None
        feature = "clone3 with a chosen pid (root, Linux 5.5)"
        require(feature, available=bool(self._parent.stdout.readline()))
        wait_until(
            lambda: self.command_line == "\0".join([*COMMAND, ""]), "the process to execute its command"
        )

    @property
    def command_line(self) -> str:
        return Path(f"/proc/{self.pid}/cmdline").read_text()

    @property
    def start(self) -> int:
        """Start time in clock ticks since boot."""
        return int(Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[19])

    @property
    def lives(self) -> bool:
        return self._parent.poll() is None

    def end(self) -> None:
        if self.lives:
            os.kill(self.pid, signal.SIGKILL)
        self._parent.wait()
        if self._parent.stdout is not None:
            self._parent.stdout.close()


@pytest.mark.parametrize("same_tick", [False, True], ids=["later", "within the same clock tick"])
def test_an_unrelated_process_with_the_pid_of_an_agent_is_neither_adopted_nor_signalled(
    site: Site, *, same_tick: bool
) -> None:
    site.write([{"instance-id": "a", "command": COMMAND}])
    first = site.start()
    pid = first.wait_for("a", UP).process.pid
    first.end(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the pid to be free")
    unrelated = UnrelatedProcess(pid)
    try:
        if same_tick:  # as after a quick reuse, when only the inode of the pidfd differs
            record = site.state_dir / "runs" / "a.json"
            record.write_text(json.dumps({**json.loads(record.read_text()), "start": unrelated.start}))
        second = site.start()
        new = second.wait_for("a", UP).process.pid
        assert site.processes() == [new]
        assert new != pid
        assert [e.reason for e in second.events("a")].count("EndedUnseen") == 1
        second.update(a="down")
        second.wait_for("a", DOWN)
        assert second.end() == 0
        assert unrelated.lives
    finally:
        unrelated.end()


def test_records_of_another_boot_are_void(site: Site, namespace: MountNamespace) -> None:
    site.write([{"instance-id": "a", "command": COMMAND}, {"instance-id": "b", "command": COMMAND}])
    first = site.start()
    first.wait_for_all(UP)
    before = {i: instance.process.pid for i, instance in first.instances().items()}
    first.update(b="down")
    first.wait_for("b", DOWN)
    first.end(signal.SIGKILL)
    boot = site.folder / "boot_id"
    boot.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    namespace.run("mount", "--bind", boot, Path("/proc/sys/kernel/random/boot_id"))
    second = site.start(program=namespace.enter(site.folder))
    second.wait_for_all(UP)  # b too, as the config decides after a reboot
    after = {i: instance.process.pid for i, instance in second.instances().items()}
    assert not set(after.values()) & set(before.values())
    reasons = [event.reason for event in second.events()]
    assert "Adopted" not in reasons
    assert "EndedUnseen" not in reasons
    second.update(all="down")
    second.wait_for_all(DOWN)
    assert site.processes() == [before["a"]], "an unverified process must get no signal"
