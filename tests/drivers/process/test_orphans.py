"""Orphans of agents: attributed to their runs without a scan of /proc, and reaped."""

from __future__ import annotations

import errno
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, Gone, RunKey, Started, StartFailed
from hostmanager_server.drivers.process import process_table
from hostmanager_server.linux.pidfds import read_stat
from hostmanager_server.linux.subreaper import Orphans, set_subreaper

from tests.cgroups import escape
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A, B = RunKey("a", 1), RunKey("b", 1)


def launch_escaping(
    real: ProcessHarness, run: RunKey, then: str = "time.sleep(1000)", *, locks: int | None = None
) -> int:
    """Launch an agent with an escaping process, and return the pid of the latter.

    The agent has the resource limit `locks`, and therefore no mark.
    """
    pid_file = real.directory / f"escaped-{run.instance_id}"
    spec = real.command(run.instance_id, sys.executable, "-c", escape(then, marked=True), str(pid_file))
    if locks is not None and spec.process is not None:
        spec = replace(spec, process=replace(spec.process, limits=(("locks", locks),)))
    real.driver.launch(run, spec)
    real.wait_for(pid_file.exists)
    return int(pid_file.read_text())


def has(real: ProcessHarness, kind: type[Exited] | type[Gone], run: RunKey) -> bool:
    return any(isinstance(event, kind) and event.run == run for event in real.events)


def runs(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


@pytest.fixture
def no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each listing of /proc fail the test."""

    def refuse() -> dict[str, int]:
        raise AssertionError("a scan of /proc")

    monkeypatch.setattr(process_table, "_list_processes", refuse)


@pytest.mark.usefixtures("no_scan")
def test_no_exit_and_no_stop_scans_the_processes_of_the_host(real: ProcessHarness) -> None:
    real.run(real.command("a", "true"))
    real.driver.launch(B, real.script("b", f"(setsid sleep 1000 &); : > {real.settled('b')}; sleep 1000"))
    real.settle("b")
    real.driver.stop(B, signal.SIGTERM, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, B))
    assert not real.alive("b")


@pytest.mark.usefixtures("no_scan")
@pytest.mark.parametrize("locks", [None, 1000], ids=["marked", "with a limit in place of the mark"])
def test_an_orphan_belongs_to_its_run_and_to_no_other(real: ProcessHarness, locks: int | None) -> None:
    mine = launch_escaping(real, A, "pass", locks=locks)
    other = launch_escaping(real, B, "pass")
    real.wait_for(lambda: has(real, Exited, A) and has(real, Exited, B))
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, A))
    assert not runs(mine)
    assert runs(other)
    assert not has(real, Gone, B)
    real.driver.stop(B, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, B))
    assert not runs(other)


def test_an_orphan_that_may_be_of_two_runs_is_left_alone(real: ProcessHarness) -> None:
    escaped = [launch_escaping(real, run, locks=1000) for run in (A, B)]
    try:
        for run in (A, B):
            real.driver.stop(run, signal.SIGKILL, whole_tree=False)
        real.wait_for(lambda: has(real, Gone, A) and has(real, Gone, B))
        assert all(map(runs, escaped))
    finally:
        for pid in escaped:
            os.kill(pid, signal.SIGKILL)


def test_ended_orphans_of_a_living_agent_are_reaped(real: ProcessHarness) -> None:
    assert real.driver.adopt({}) == []
    pid_file = real.directory / "orphan"
    text = f"(sleep 1000 & echo $! > {pid_file}); : > {real.settled('a')}; exec sleep 1000"
    real.driver.launch(A, real.script("a", text))
    real.settle("a")
    orphan = int(pid_file.read_text())
    assert read_stat(orphan) is not None
    os.kill(orphan, signal.SIGKILL)
    real.wait_for(lambda: not Path(f"/proc/{orphan}").exists())
    assert not has(real, Exited, A)


def test_a_zombie_of_a_living_agent_is_reaped_where_the_kernel_lists_no_orphans(
    scanning: ProcessHarness,
) -> None:
    test_ended_orphans_of_a_living_agent_are_reaped(scanning)


def test_agents_of_a_program_before_an_exec_keep_their_exit_status(real: ProcessHarness) -> None:
    # After an exec agents are children of the first thread, as in these tests.
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    real.replace_driver()
    real.driver.adopt({})
    os.kill(real.pid("a"), signal.SIGUSR1)
    real.wait_for(lambda: has(real, Gone, A))
    assert [e.status.signal for e in real.events if isinstance(e, Exited)] == [signal.SIGUSR1]
    assert sum(isinstance(event, Started) for event in real.events) == 1


@pytest.mark.usefixtures("no_scan")
def test_orphans_of_a_run_that_ended_before_an_exec_are_adopted(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    escaped = launch_escaping(real, A, "pass")
    real.wait_for(lambda: not runs(real.pid("a")))
    real.replace_driver()
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.gone) == (A, False)
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, A))
    assert not runs(escaped)


def test_a_closed_driver_reaps_no_agent(real: ProcessHarness) -> None:
    # The successor, after an exec, reads the exit status.
    real.driver.adopt({})
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    pid = real.pid("a")
    real.driver.disown()
    real.driver.close()
    os.kill(pid, signal.SIGUSR1)
    status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.kill(os.getpid(), signal.SIGCHLD)
    assert status is not None
    assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    real.replace_driver()


def test_orphans_that_end_faster_than_they_are_read_do_not_hold_up_the_daemon() -> None:
    class Dying(Orphans):
        forks = 0

        def _children(self) -> list[int]:
            self.forks += 1
            assert self.forks < 100, "the reading never ends"
            pid = os.posix_spawn("/bin/true", ["true"], {})
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            return [pid]

    orphans = Dying()
    try:
        assert orphans.reap() == []
        assert not orphans.complete, "the last orphan may have left children"
    finally:
        orphans.close()
        set_subreaper(enabled=False)


# A process that traces another keeps it from being reaped: PTRACE_SEIZE is 0x4206.
TRACE = """
import ctypes, os, signal, sys, time
def traced(pid):
    if ctypes.CDLL(None).ptrace(0x4206, pid, None, None):
        write("refused")
        os._exit(77)
def write(text):
    with open(sys.argv[1] + ".new", "w") as file:
        file.write(str(text))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
"""
TRACES_AN_ORPHAN = f"""{TRACE}
read_end, write_end = os.pipe()
if not os.fork():
    if not os.fork():
        os.write(write_end, str(os.getpid()).encode())
        time.sleep(1000)
    os._exit(0)
os.wait()
orphan = int(os.read(read_end, 20))
traced(orphan)
os.kill(orphan, signal.SIGKILL)
write(orphan)
time.sleep(1000)
"""
IS_TRACED = f"""{TRACE}
main = os.getpid()
if not os.fork():
    traced(main)
    write(main)
    time.sleep(1000)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.001)
os._exit(7)
"""


def skip_if_refused(pid_file: Path) -> None:
    if pid_file.read_text() == "refused":
        pytest.skip("this user may not trace")


def test_a_zombie_that_a_debugger_keeps_delays_no_other_run(real: ProcessHarness) -> None:
    pid_file = real.directory / "orphan"
    real.driver.launch(A, real.command("a", sys.executable, "-c", TRACES_AN_ORPHAN, str(pid_file)))
    real.wait_for(pid_file.exists)
    skip_if_refused(pid_file)
    real.run(real.command("b", "true"))
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, A))


def test_an_agent_that_a_debugger_keeps_is_reported_and_reaped(real: ProcessHarness) -> None:
    pid_file = real.directory / "main"
    real.driver.launch(A, real.command("a", sys.executable, "-c", IS_TRACED, str(pid_file)))
    real.wait_for(lambda: has(real, Exited, A))
    skip_if_refused(pid_file)
    assert [e.status.code for e in real.events if isinstance(e, Exited)] == [7]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, A))
    real.run(real.command("b", "true"))
    assert not Path(f"/proc/{real.pid('a')}").exists()


def test_a_start_that_fails_late_leaves_no_process_and_waits_for_no_debugger(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid_file = real.directory / "main"
    code = IS_TRACED.replace("traced(main)", "os.setsid(); traced(main)").replace(
        "write(main)", "write(os.getpid())"
    )

    def no_memory(fd: int, callback: object) -> None:
        wait_until(pid_file.exists, "the agent is traced")
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as broken:
        broken.setattr(real.poller, "watch", no_memory)
        real.driver.launch(A, real.command("a", sys.executable, "-c", code, str(pid_file)))
    skip_if_refused(pid_file)
    assert [type(event) for event in real.events] == [StartFailed]
    tracer = int(pid_file.read_text())
    real.wait_for(lambda: not runs(tracer))
