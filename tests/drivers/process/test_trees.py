"""The trees of real agents: nothing of them escapes, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, Gone, RunKey
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.drivers.process import tree_tracker
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import read_file, read_stat

if TYPE_CHECKING:
    from tests.drivers.conftest import RealHarness

A = RunKey("a", 1)

# Each leaves a process behind that does one thing more to be overlooked, and writes its pid to the file $1.
SLEEP = "import os, sys, time; open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); "
SLEEP += "os.rename(sys.argv[1] + '.new', sys.argv[1]); time.sleep(1000)"
DAEMON = """
import os, subprocess, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
subprocess.Popen([sys.executable, "-c", SLEEP, sys.argv[1]], close_fds={close}, env={env})
"""


# Ends by itself in a minute or so, should it ever get away from a test that fails.
FORKS = """
import os, time
for _ in range(20_000):
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.001)
"""


def daemon(close_fds: bool, env: str) -> str:
    return f"SLEEP = {SLEEP!r}\n" + DAEMON.format(close=close_fds, env=env)


ESCAPES = {
    "in another session": daemon(False, "None"),
    "with its descriptors closed": daemon(True, "None"),
    "with its environment scrubbed": daemon(False, "{}"),
}


def leave_behind(real: RealHarness, code: str) -> int:
    """Runs an agent that leaves a process behind and stays; that one's pid."""
    script = real.directory / "escape.py"
    script.write_text(code)
    pid_file = real.directory / "escaped"
    text = f"{sys.executable} {script} {pid_file}; exec sleep 1000"
    real.driver.launch(A, real.script("a", text))
    real.wait_for(pid_file.exists)
    return int(pid_file.read_text())


def daemonising(real: RealHarness, name: str) -> InstanceSpec:
    return real.script(name, f"(setsid sleep 1000 &); : > {real.settled(name)}; sleep 1000")


def has(real: RealHarness, kind: type[Exited] | type[Gone], run: RunKey = A) -> bool:
    return any(isinstance(event, kind) and event.run == run for event in real.events)


def runs(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


@pytest.fixture
def bystander(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's business."""
    process = subprocess.Popen(["sleep", "1000"], env={"HOSTMANAGER_RUN": "somebody.else"})
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", ESCAPES)
def test_a_process_that_daemonised_keeps_the_run_from_being_gone(real: RealHarness, how: str) -> None:
    escaped = leave_behind(real, ESCAPES[how])
    real.driver.stop(A, signal.SIGINT, whole_tree=False)
    real.wait_for(lambda: has(real, Exited))
    assert real.run(real.command("other", "true")) == ""
    assert has(real, Gone, RunKey("other", 1))
    assert not has(real, Gone)
    assert runs(escaped)
    os.kill(escaped, signal.SIGTERM)
    real.wait_for(lambda: has(real, Gone))
    assert not runs(escaped)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_that_hides_in_every_other_way_is_known_by_its_parent(real: RealHarness, signum: int) -> None:
    pid_file = real.directory / "hidden"
    code = f"import subprocess, time\nSLEEP = {SLEEP!r}\n"
    code += f"hidden = [{sys.executable!r}, '-c', SLEEP, {str(pid_file)!r}]\n"
    code += "subprocess.Popen(hidden, env={}, start_new_session=True, close_fds=True)\ntime.sleep(1000)"
    real.driver.launch(A, real.command("a", sys.executable, "-c", code))
    real.wait_for(pid_file.exists)
    real.driver.stop(A, signum, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not runs(int(pid_file.read_text()))


@pytest.mark.parametrize("how", ESCAPES)
def test_killing_the_whole_tree_reaches_a_process_that_daemonised(real: RealHarness, how: str) -> None:
    escaped = leave_behind(real, ESCAPES[how])
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not runs(escaped)


def test_term_reaches_the_tree_of_a_living_leader_once(real: RealHarness) -> None:
    said = real.directory / "said"
    child = (
        f"trap 'echo term >> {said}' TERM; : > {real.directory}/child; while :; do sleep 1000 & wait; done"
    )
    real.driver.launch(
        A, real.script("a", f'trap : TERM; (setsid sh -c "{child}" &); while :; do sleep 1000 & wait; done')
    )
    real.wait_for((real.directory / "child").exists)
    real.driver.stop(A, signal.SIGTERM, whole_tree=True)
    real.wait_for(lambda: said.exists() and said.read_text() != "")
    real.run(real.command("other", "true"))
    assert said.read_text() == "term\n"
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not real.alive("a")


def test_killing_wins_against_a_tree_that_keeps_forking(real: RealHarness) -> None:
    script = real.directory / "fork.py"
    script.write_text(FORKS)
    real.driver.launch(
        A, real.script("a", f"{sys.executable} {script}; : > {real.settled('a')}; exec sleep 1000")
    )
    real.settle("a")
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not real.alive("a")


def test_a_descendant_whose_parent_does_not_reap_it_counts_as_gone(real: RealHarness) -> None:
    real.driver.launch(A, real.script("a", f"sleep 1000 & echo $! > {real.settled('a')}; exec sleep 1000"))
    real.wait_for(lambda: real.settled("a").exists() and bool(real.settled("a").read_text()))
    os.kill(int(real.settled("a").read_text()), signal.SIGKILL)  # a zombie: `sleep` reaps nobody
    real.driver.stop(A, signal.SIGINT, whole_tree=False)
    real.wait_for(lambda: has(real, Gone))


def test_bystanders_are_left_alone(real: RealHarness, bystander: subprocess.Popen[bytes]) -> None:
    real.driver.launch(A, real.script("a", f"sleep 1000 & : > {real.settled('a')}; sleep 1000"))
    real.settle("a")
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert bystander.poll() is None


def test_one_tree_s_end_does_not_touch_another_s(real: RealHarness) -> None:
    other = RunKey("b", 1)
    for run in (A, other):
        name = run.instance_id
        real.driver.launch(
            run, real.script(name, f"(setsid sleep 1000 &); : > {real.settled(name)}; sleep 1000")
        )
        real.settle(name)
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not has(real, Exited, other)
    assert real.alive("b")
    real.driver.stop(other, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone, other))


def test_many_that_end_at_once_are_all_gone(real: RealHarness) -> None:
    keys = [RunKey(f"i{number}", 1) for number in range(60)]
    for key in keys:
        name = key.instance_id
        real.driver.launch(
            key, real.script(name, f"(setsid sleep 1000 &); : > {real.settled(name)}; sleep 1000")
        )
    for key in keys:
        real.settle(key.instance_id)
    for key in keys:
        real.driver.stop(key, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: all(has(real, Gone, key) for key in keys))
    assert not any(real.alive(key.instance_id) for key in keys)
    assert real.poller.watched == 0
    assert real.records() == []


def test_a_stop_after_the_last_descendant_has_died_unseen_does_nothing(
    real: RealHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_tracker, "_FRESH", 0.0)  # as if the last look had been a while ago
    child = real.directory / "child"
    script = (
        f"(setsid sh -c 'echo $$ > {child}; exec sleep 1000' &); : > {real.settled('a')}; exec sleep 1000"
    )
    real.driver.launch(A, real.script("a", script))
    real.settle("a")
    real.wait_for(lambda: child.exists() and child.read_text().endswith("\n"))
    left = int(child.read_text())
    os.kill(real.pid("a"), signal.SIGKILL)
    real.wait_for(lambda: any(isinstance(event, Exited) for event in real.events))
    os.kill(left, signal.SIGKILL)
    gone = threading.Event()
    while Path(f"/proc/{left}").exists():  # reaped, and the loop has not turned since
        gone.wait(0.01)
    real.driver.stop(A, signal.SIGTERM, whole_tree=True)
    real.wait_for(lambda: any(isinstance(event, Gone) for event in real.events))


def test_a_process_that_may_not_be_looked_at_keeps_no_run_from_being_gone(
    real: RealHarness, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(path: str) -> bytes:
        if path.startswith(f"/proc/{bystander.pid}/"):  # as where /proc is mounted with hidepid=1
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return read_file(path)

    monkeypatch.setattr(pidfds, "read_file", hidden)
    real.run(real.command("a", "true"))
    assert has(real, Gone)
