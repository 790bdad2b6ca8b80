"""What a daemon takes back from the one before it, and what it must leave alone."""

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
from hostmanager_server.linux import pidfds

from tests.drivers.conftest import DEADLINE

if TYPE_CHECKING:
    from tests.drivers.conftest import RealHarness

A = RunKey("a", 1)

# A daemon that launches one agent, says its pid, and is killed without warning.
DAEMON = """
import json, os, signal, sys
from pathlib import Path
from hostmanager_server.core.events import Instant, RunKey, Started
from hostmanager_server.core.spec import InstanceSpec, ProcessSpec
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process.cgroup import Cgroups
from hostmanager_server.drivers.process.driver import ProcessDriver

class Poller:
    def watch(self, fd, callback): pass
    def unwatch(self, fd): pass
    def call_later(self, seconds, callback): pass
    def now(self): return Instant(1.0, 2.0)

class Output:
    def open_for_append(self, instance_id, policy):
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

state, argv, crash = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
if crash == "before release":
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


def daemon_that_dies(real: RealHarness, *argv: str, crash: str = "") -> str:
    """What it said before it was killed."""
    cgroup = "" if real.cgroup is None else str(real.cgroup / "agents")
    command = [sys.executable, "-c", DAEMON, str(real.directory), json.dumps(argv), crash, cgroup]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=False, text=True)
    assert ended.returncode == -signal.SIGKILL
    return ended.stdout.strip()


def record(real: RealHarness) -> Path:
    return real.directory / "runs" / "a.json"


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def statuses(real: RealHarness) -> list[ExitStatus]:
    return [event.status for event in real.events if isinstance(event, Exited)]


def gone(real: RealHarness) -> bool:
    return any(isinstance(event, Gone) for event in real.events)


def runs(pid: int) -> bool:
    stat = pidfds.read_stat(pid)
    return stat is not None and stat.alive


@pytest.mark.parametrize(
    ("end", "status"), [("exit 7", ExitStatus(code=7)), ("kill -USR1 $$", ExitStatus(signal=signal.SIGUSR1))]
)
def test_an_agent_outlives_its_daemon_and_how_it_ends_is_told_to_the_next(
    real: RealHarness, end: str, status: ExitStatus
) -> None:
    go_on = real.directory / "go-on"
    os.mkfifo(go_on)
    pid = int(daemon_that_dies(real, "sh", "-c", f": > {real.settled('a')}; read x < {go_on}; {end}"))
    real.settle("a")
    adopted = real.driver.adopt({})
    assert [(one.run, one.pid, one.started.wall) for one in adopted] == [(A, pid, 2.0)]
    assert adopted[0].process.argv[0] == "sh"
    assert real.events == []
    go_on.write_text("\n")
    real.wait_for(lambda: gone(real))
    assert statuses(real) == [status]
    assert not record(real).exists()


def test_an_adopted_agent_can_be_stopped_with_its_tree(real: RealHarness) -> None:
    daemon_that_dies(real, "sh", "-c", f"(setsid sleep 1000 &); : > {real.settled('a')}; sleep 1000")
    real.settle("a")
    assert [one.run for one in real.driver.adopt({})] == [A]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not real.alive("a")


@pytest.mark.parametrize("crash", ["before record", "before release", "before release, the gate frozen"])
def test_a_run_in_the_gate_leaves_with_its_daemon(
    real: RealHarness, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_process, "GATE_ENDS", int(DEADLINE * 1000))
    monkeypatch.setattr(main_process, "_GATE_READINGS", int(DEADLINE * 1000) // main_process._SHORTLY)
    touched = real.directory / "touched"
    said = daemon_that_dies(real, "touch", str(touched), crash=crash)
    assert real.driver.adopt({}) == []
    assert real.records() == []
    if said:
        real.wait_for(lambda: not runs(int(said)))
    real.wait_for(lambda: not real.alive("a"))
    assert not touched.exists()
    assert real.events == []


def test_a_run_that_ended_meanwhile_is_told_of_as_one_that_ended(real: RealHarness) -> None:
    pid = int(daemon_that_dies(real, "sh", "-c", f": > {real.settled('a')}"))
    real.wait_for(lambda: not runs(pid))
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.pid, adopted.gone) == (A, pid, True)
    assert adopted.ended in (ExitStatus(), ExitStatus(code=0))  # known as long as nobody has reaped it
    assert not record(real).exists()
    assert real.events == []


def test_a_run_whose_daemon_died_as_it_let_it_out_of_the_gate_is_told_of(real: RealHarness) -> None:
    command = f"printf '' >&3 && exit 1; : > {real.settled('a')}; exec sleep 1000"
    pid = int(daemon_that_dies(real, "sh", "-c", command, crash="after release"))
    real.settle("a")  # so it has no descriptor left to write its record
    os.kill(pid, signal.SIGKILL)
    real.wait_for(lambda: not runs(pid))
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.pid, adopted.gone) == (A, pid, True)
    assert adopted.ended is not None


def launch_steady(real: RealHarness) -> int:
    real.driver.launch(A, real.command("a", "sleep", "1000"))
    real.wait_for(lambda: Path(f"/proc/{real.pid('a')}/cmdline").read_bytes().startswith(b"sleep"))
    return real.pid("a")


@pytest.mark.parametrize("field", ["start", "inode", "boot_id"])
def test_a_process_that_is_not_the_recorded_one_is_neither_adopted_nor_signalled(
    real: RealHarness, field: str
) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        pidfd = os.pidfd_open(bystander.pid)
        who = pidfds.identify(bystander.pid, pidfd)
        os.close(pidfd)
        assert who is not None
        real.run(real.command("a", "true"))
        forged: dict[str, Any] = {"start": who.start, "inode": who.inode, "boot_id": who.boot_id}
        forged[field] = "another boot" if field == "boot_id" else forged[field] + 1
        launch_steady_then_forge(real, pid=bystander.pid, **forged)
        adopted = real.driver.adopt({})
        for one in adopted:
            real.driver.stop(one.run, signal.SIGKILL, whole_tree=True)
        # Another boot's record is void; of this boot, its process has ended.
        assert [(one.ended, one.gone) for one in adopted] == [(ExitStatus(), True)] * (field != "boot_id")
        assert bystander.poll() is None
        assert not record(real).exists()
    finally:
        bystander.kill()
        bystander.wait()


def launch_steady_then_forge(real: RealHarness, **changes: Any) -> None:
    """A record of a run of which nothing is left, changed."""
    run = RunKey("a", 2)
    real.driver.launch(run, real.command("a", "sleep", "1000"))
    content = record(real).read_bytes()
    real.driver.stop(run, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: sum(isinstance(event, Gone) for event in real.events) == 2)
    record(real).write_bytes(content)
    rewrite(record(real), **changes)
    real.successor()


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
    real: RealHarness, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    record(real).write_text(content)
    assert real.driver.adopt({}) == []
    assert not record(real).exists()
    assert record(real).with_suffix(".corrupt").read_text() == content
    assert str(record(real)) in caplog.text


def test_a_corrupt_record_does_not_keep_others_from_being_adopted(real: RealHarness) -> None:
    pid = launch_steady(real)
    (real.directory / "runs" / "B.json").write_text("nonsense")
    real.successor()
    assert [one.pid for one in real.driver.adopt({})] == [pid]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_records_can_be_read_by_their_owner_only(real: RealHarness) -> None:
    launch_steady(real)
    assert record(real).stat().st_mode & 0o077 == 0
    assert record(real).parent.stat().st_mode & 0o077 == 0
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))


def test_an_agent_cannot_write_its_record(real: RealHarness) -> None:
    script = "import os; os.write(250, b'x')"
    assert "Bad file descriptor" in real.run(real.command("a", sys.executable, "-c", script))


def test_a_process_known_by_its_lock_alone_is_adopted(real: RealHarness) -> None:
    script = (
        "import os; os.fork() and os._exit(0); os.setsid(); os.execve('/bin/sleep', ['sleep', '1000'], {})"
    )
    pid = int(daemon_that_dies(real, sys.executable, "-c", script))
    real.wait_for(lambda: not runs(pid))
    (adopted,) = real.driver.adopt({})
    assert (adopted.run, adopted.gone) == (A, False)
    assert adopted.ended in (ExitStatus(), ExitStatus(code=0))  # known as long as nobody has reaped it
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not any(isinstance(event, Started) for event in real.events)


def test_a_short_record_after_a_long_one_is_read_as_itself(real: RealHarness) -> None:
    real.run(real.command("a", "true", "x" * 5_000))
    run = RunKey("a", 2)
    real.driver.launch(run, real.command("a", "sleep", "1000"))
    real.successor()
    real.wait_for(lambda: Path(f"/proc/{real.pid('a')}/cmdline").read_bytes().startswith(b"sleep"))
    assert [one.process.argv for one in real.driver.adopt({})] == [("sleep", "1000")]
    real.driver.stop(run, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: sum(isinstance(event, Gone) for event in real.events) == 2)


def test_what_an_adopted_agent_left_behind_is_its_own_also_when_another_ended_unseen(
    real: RealHarness,
) -> None:
    # Known by its marker alone, as the driver looks for what is left of the other one.
    hide = "import os; os.setsid(); os.fork() and os._exit(0); os.closerange(3, 300)"
    script = (
        f'{sys.executable} -c \'{hide}; import time; open("{real.settled("a")}", "w"); time.sleep(1000)\''
    )
    real.driver.launch(A, real.script("a", f"({script} &); exec sleep 1000"))
    real.driver.launch(RunKey("b", 1), real.command("b", "sleep", "1000"))
    real.settle("a")
    real.successor()
    real.crash("b")
    real.wait_for(lambda: not runs(real.pid("b")))
    assert sorted(one.run.instance_id for one in real.driver.adopt({}) if not one.gone) == ["a"]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not real.alive("a")
