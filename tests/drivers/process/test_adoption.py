"""Adoption: runs that a daemon takes over from its predecessor, or leaves alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostmanager_server.core.events import Exited, ExitStatus, Gone, RunKey, Started
from hostmanager_server.drivers.process import main_process
from hostmanager_server.drivers.process.records import files
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.spawning import LIBRARY

from tests.drivers.conftest import DEADLINE

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)

# A daemon that launches one agent, prints its pid, and is killed without warning.
DAEMON = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
from hostmanager_server.core.events import Instant, RunKey, Started
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec
from hostmanager_server.drivers.exec import direct, gate
from hostmanager_server.drivers.output.stream import OutputMark
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.drivers.process.driver import ProcessDriver
from hostmanager_server.linux import pidfds

class Poller:
    def watch(self, fd, callback): pass
    def unwatch(self, fd): pass
    def call_later(self, seconds, callback): pass
    def now(self): return Instant(1.0, 2.0)

class Output:
    def open_for_append(self, instance_id, policy):
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    def mark(self, instance_id, policy, fd):
        return OutputMark(0, 0)
    def last_output(self, instance_id, policy, mark):
        return ''

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

state, argv, crash = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
if "record" in crash or "release" in crash:
    direct.load_spawner = lambda: None
if crash == "with the pid noted":
    pidfds.identify_child = die
elif crash == "with nothing noted":
    spawn = direct.spawn
    direct.spawn = lambda spawner, command, given: spawn(spawner, command, replace(given, note=None))
    pidfds.identify_child = die
elif crash == "with nothing started":
    direct.spawn = die
elif crash == "before release":
    gate.Gate.release = die
elif crash == "before release, the gate frozen":
    gate.Gate.release = lambda self: die(os.kill(self.pid, signal.SIGSTOP))
elif crash == "after release":
    release = gate.Gate.release
    gate.Gate.release = lambda self: (print(self.pid, flush=True), release(self), die())
elif crash == "before record":
    spawn = gate.spawn
    def spawn_and_die(*arguments):
        print(spawn(*arguments).pid, flush=True)
        die()
    gate.spawn = spawn_and_die

def post(event):
    if isinstance(event, Started):
        print(event.pid, flush=True)

driver = ProcessDriver(Poller(), post, Path(state), Output(), os.urandom(8).hex(),
                       print, Cgroups(sys.argv[4] or None))
driver.launch(RunKey("a", 1), InstanceSpec("a", "Test", process=ProcessSpec(tuple(argv))))
die()
"""


def launch_and_kill_daemon(real: ProcessHarness, *argv: str, crash: str = "") -> str:
    """Return the output of a daemon that launched an agent and was killed."""
    cgroup = "" if real.cgroup is None else str(real.cgroup / "agents")
    command = [sys.executable, "-c", DAEMON, str(real.directory), json.dumps(argv), crash, cgroup]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    assert ended.returncode == -signal.SIGKILL
    return ended.stdout.strip()


def record(real: ProcessHarness) -> Path:
    return real.directory / "runs" / "a.json"


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def statuses(real: ProcessHarness) -> list[ExitStatus]:
    return [event.status for event in real.events if isinstance(event, Exited)]


def gone(real: ProcessHarness) -> bool:
    return any(isinstance(event, Gone) for event in real.events)


def runs(pid: int) -> bool:
    stat = pidfds.read_stat(pid)
    return stat is not None and stat.alive


@pytest.mark.parametrize(
    ("end", "status"), [("exit 7", ExitStatus(code=7)), ("kill -USR1 $$", ExitStatus(signal=signal.SIGUSR1))]
)
def test_an_agent_outlives_its_daemon_and_the_next_one_reports_its_end(
    real: ProcessHarness, end: str, status: ExitStatus
) -> None:
    go_on = real.directory / "go-on"
    os.mkfifo(go_on)
    pid = int(launch_and_kill_daemon(real, "sh", "-c", f": > {real.settled('a')}; read x < {go_on}; {end}"))
    real.settle("a")
    adopted = real.driver.adopt({})
    assert [(one.run, one.pid, one.started.wall) for one in adopted] == [(A, pid, 2.0)]
    assert adopted[0].process.argv[0] == "sh"
    assert real.events == []
    go_on.write_text("\n")
    real.wait_for(lambda: gone(real))
    assert statuses(real) == [status]
    assert not record(real).exists()


def test_an_adopted_agent_can_be_stopped_with_its_tree(real: ProcessHarness) -> None:
    launch_and_kill_daemon(real, "sh", "-c", f"(setsid sleep 1000 &); : > {real.settled('a')}; sleep 1000")
    real.settle("a")
    assert [one.run for one in real.driver.adopt({})] == [A]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not real.alive("a")


@pytest.mark.parametrize("crash", ["before record", "before release", "before release, the gate frozen"])
def test_a_run_in_the_gate_leaves_with_its_daemon(
    real: ProcessHarness, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_process, "GATE_ENDS", int(DEADLINE * 1000))
    monkeypatch.setattr(main_process, "_GATE_READINGS", int(DEADLINE * 1000) // main_process._SHORTLY)
    touched = real.directory / "touched"
    output = launch_and_kill_daemon(real, "touch", str(touched), crash=crash)
    assert real.driver.adopt({}) == []
    assert real.records() == []
    if output:
        real.wait_for(lambda: not runs(int(output)))
    real.wait_for(lambda: not real.alive("a"))
    assert not touched.exists()
    assert real.events == []


needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="the library of starts was not built")


@needs_library
def test_a_run_is_adopted_if_its_daemon_died_right_after_the_start(real: ProcessHarness) -> None:
    launch_and_kill_daemon(
        real, "sh", "-c", f": > {real.settled('a')}; sleep 1000", crash="with the pid noted"
    )
    real.settle("a")
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.ended) == (A, None)
    written = json.loads(record(real).read_text())
    assert (written["pid"], written["released"]) == (adopted.pid, 1)
    assert written["start"] == pidfds.read_stat(adopted.pid).start  # type: ignore[union-attr]  # it runs
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not real.alive("a")


@needs_library
def test_another_process_with_a_noted_pid_is_not_the_main_process(real: ProcessHarness) -> None:
    launch_and_kill_daemon(real, "true", crash="with the pid noted")
    real.wait_for(lambda: not real.alive("a"))
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        text = record(real).read_text()
        head, _, rest = text.partition('"pid": ')
        record(real).write_text(f'{head}"pid": {bystander.pid:7}{rest[7:]}')
        (adopted,) = real.driver.adopt({})
        assert adopted.gone
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@needs_library
def test_a_run_without_a_noted_pid_is_stopped_as_a_whole(
    real: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_NOTE_READINGS", 3)
    launch_and_kill_daemon(
        real, "sh", "-c", f": > {real.settled('a')}; sleep 1000", crash="with nothing noted"
    )
    real.settle("a")
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.ended, adopted.gone) == (A, ExitStatus(), False)
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not real.alive("a")


@needs_library
def test_a_record_without_a_process_is_void(real: ProcessHarness) -> None:
    launch_and_kill_daemon(real, "true", crash="with nothing started")
    assert json.loads(record(real).read_text())["pid"] == 0
    assert real.driver.adopt({}) == []
    assert real.records() == []
    assert real.events == []


def test_a_run_that_ended_meanwhile_is_adopted_as_ended(real: ProcessHarness) -> None:
    pid = int(launch_and_kill_daemon(real, "sh", "-c", f": > {real.settled('a')}"))
    real.wait_for(lambda: not runs(pid))
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.pid, adopted.gone) == (A, pid, True)
    assert adopted.ended in (ExitStatus(), ExitStatus(code=0))  # readable until the process is reaped
    assert not record(real).exists()
    assert real.events == []


def test_a_run_is_adopted_if_its_daemon_died_at_the_release(real: ProcessHarness) -> None:
    command = f"printf '' >&3 && exit 1; : > {real.settled('a')}; exec sleep 1000"
    pid = int(launch_and_kill_daemon(real, "sh", "-c", command, crash="after release"))
    real.settle("a")  # the gate has no descriptor left to write the record
    os.kill(pid, signal.SIGKILL)
    real.wait_for(lambda: not runs(pid))
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.pid, adopted.gone) == (A, pid, True)
    assert adopted.ended is not None


def launch_steady(real: ProcessHarness) -> int:
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    real.wait_for(lambda: Path(f"/proc/{real.pid('a')}/cmdline").read_bytes().startswith(b"sleep"))
    return real.pid("a")


@pytest.mark.parametrize("field", ["start", "inode", "boot_id"])
def test_a_process_that_is_not_the_recorded_one_is_neither_adopted_nor_signalled(
    real: ProcessHarness, field: str
) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        pidfd = os.pidfd_open(bystander.pid)
        identity = pidfds.identify(bystander.pid, pidfd)
        os.close(pidfd)
        assert identity is not None
        real.run(real.command("a", "true"))
        forged: dict[str, Any] = {
            "start": identity.start,
            "inode": identity.inode,
            "boot_id": identity.boot_id,
        }
        forged[field] = "another boot" if field == "boot_id" else forged[field] + 1
        launch_steady_then_forge(real, pid=bystander.pid, **forged)
        adopted = real.driver.adopt({})
        for one in adopted:
            real.driver.stop(one.run, signal.SIGKILL, whole_tree=True)
        # A record of another boot is void; a record of this boot shows an ended process.
        assert [(one.ended, one.gone) for one in adopted] == [(ExitStatus(), True)] * (field != "boot_id")
        assert bystander.poll() is None
        assert not record(real).exists()
    finally:
        bystander.kill()
        bystander.wait()


def launch_steady_then_forge(real: ProcessHarness, **changes: Any) -> None:
    """Launch an agent, let the run end, and write a changed record of it."""
    run = RunKey("a", 2)
    real.driver.launch(run, real.command("a", "sleep", "1000"))
    content = record(real).read_bytes()
    real.driver.stop(run, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: sum(isinstance(event, Gone) for event in real.events) == 2)
    record(real).write_bytes(content)
    rewrite(record(real), **changes)
    real.replace_driver()


UNREADABLE = [
    "",
    "{",
    "[]",
    "null",
    '{"version": 1}',
    '{"version": 99}',
    '{"version": 1, "instance_id": 5}',
    "\0",
]


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_record_that_cannot_be_read_is_set_aside(
    real: ProcessHarness, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    record(real).write_text(content)
    assert real.driver.adopt({}) == []
    assert not record(real).exists()
    assert record(real).with_suffix(".corrupt").read_text() == content
    assert str(record(real)) in caplog.text


def test_a_corrupt_record_does_not_keep_others_from_being_adopted(real: ProcessHarness) -> None:
    pid = launch_steady(real)
    (real.directory / "runs" / "B.json").write_text("nonsense")
    real.replace_driver()
    assert [one.pid for one in real.driver.adopt({})] == [pid]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_records_can_be_read_by_their_owner_only(real: ProcessHarness) -> None:
    launch_steady(real)
    assert record(real).stat().st_mode & 0o077 == 0
    assert record(real).parent.stat().st_mode & 0o077 == 0
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_an_agent_cannot_write_its_record(real: ProcessHarness) -> None:
    script = "import os; os.write(250, b'x')"
    assert "Bad file descriptor" in real.run(real.command("a", sys.executable, "-c", script))


def test_a_process_with_only_the_lock_is_adopted(real: ProcessHarness) -> None:
    script = (
        "import os; os.fork() and os._exit(0); os.setsid(); os.execve('/bin/sleep', ['sleep', '1000'], {})"
    )
    pid = int(launch_and_kill_daemon(real, sys.executable, "-c", script))
    real.wait_for(lambda: not runs(pid))
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.gone) == (A, False)
    assert adopted.ended in (ExitStatus(), ExitStatus(code=0))  # readable until the process is reaped
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not any(isinstance(event, Started) for event in real.events)


def test_a_short_record_in_the_file_of_a_long_one_is_valid(real: ProcessHarness) -> None:
    real.run(real.command("a", "true", "x" * 5_000))
    run = RunKey("a", 2)
    real.driver.launch(run, real.command("a", "sleep", "1000"))
    real.replace_driver()
    real.wait_for(lambda: Path(f"/proc/{real.pid('a')}/cmdline").read_bytes().startswith(b"sleep"))
    assert [one.process.argv for one in real.driver.adopt({})] == [("sleep", "1000")]
    real.driver.stop(run, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: sum(isinstance(event, Gone) for event in real.events) == 2)


def test_survivors_of_an_adopted_agent_are_not_those_of_another_ended_one(
    real: ProcessHarness,
) -> None:
    # The agent shows only its marker while the driver scans for survivors of the other run.
    hide = "import os; os.setsid(); os.fork() and os._exit(0); os.closerange(3, 300)"
    script = (
        f'{sys.executable} -c \'{hide}; import time; open("{real.settled("a")}", "w"); time.sleep(1000)\''
    )
    real.driver.launch(A, real.script("a", f"({script} &); exec sleep 1000"))
    real.driver.launch(RunKey("b", 1), real.command("b", "sleep", "1000"))
    real.settle("a")
    real.replace_driver()
    real.crash("b")
    real.wait_for(lambda: not runs(real.pid("b")))
    assert sorted(one.run.instance_id for one in real.driver.adopt({}) if not one.gone) == ["a"]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not real.alive("a")


def test_the_last_lines_of_an_adopted_run_are_its_own(real: ProcessHarness) -> None:
    first = real.script("a", "echo of the first run")
    real.run(first)
    go_on = real.directory / "go-on"
    os.mkfifo(go_on)
    second = RunKey("a", 2)
    spec = real.script("a", f"echo before; : > {real.settled('a')}; read x < {go_on}; exit 3")
    real.driver.launch(second, spec)
    real.settle("a")
    real.replace_driver()
    real.events.clear()
    real.driver.adopt({"a": spec})
    go_on.write_text("\n")
    real.wait_for(lambda: gone(real))
    (exited,) = (event for event in real.events if isinstance(event, Exited))
    assert exited.last_output == "before"


def test_the_last_lines_of_a_run_that_ended_without_a_daemon_are_kept(real: ProcessHarness) -> None:
    go_on = real.directory / "go-on"
    os.mkfifo(go_on)
    spec = real.script("a", f"echo said; : > {real.settled('a')}; read x < {go_on}; exit 3")
    real.driver.launch(A, spec)
    real.settle("a")
    real.replace_driver()
    go_on.write_text("\n")
    real.wait_for(lambda: not runs(real.pid("a")))
    (adopted,) = real.driver.adopt({"a": spec})
    assert adopted.last_output == "said"
