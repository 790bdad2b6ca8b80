"""Trees of real agents: no process escapes, and no other process gets a signal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, Gone, RunKey
from hostmanager_server.core.spec import InstanceSpec
from hostmanager_server.drivers.process.process_table import ProcessTable
from hostmanager_server.linux import pidfds
from hostmanager_server.linux.pidfds import read_file, read_stat

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)

# Each program leaves a process behind, removes one more piece of evidence, and writes the pid to the file
# $1.
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


# Ends after about a minute, even if it escapes from a failing test.
FORKS = """
import os, time
for _ in range(20_000):
    if os.fork():
        os._exit(0)
    os.setsid()
    time.sleep(0.001)
"""


def daemon(*, close_fds: bool, env: str) -> str:
    return f"SLEEP = {SLEEP!r}\n" + DAEMON.format(close=close_fds, env=env)


ESCAPES = {
    "in another session": daemon(close_fds=False, env="None"),
    "with its descriptors closed": daemon(close_fds=True, env="None"),
    "with its environment scrubbed": daemon(close_fds=False, env="{}"),
    "without session, descriptors and environment": daemon(close_fds=True, env="{}"),
}


def launch_and_escape(real: ProcessHarness, code: str) -> int:
    """Launch an agent that leaves a process behind, and return that process's pid."""
    script = real.directory / "escape.py"
    script.write_text(code)
    pid_file = real.directory / "escaped"
    text = f"{sys.executable} {script} {pid_file}; exec sleep 1000"
    real.driver.launch(A, real.script("a", text))
    real.wait_for(pid_file.exists)
    return int(pid_file.read_text())


def daemonising_agent(real: ProcessHarness, name: str) -> InstanceSpec:
    return real.script(name, f"(setsid sleep 1000 &); : > {real.settled(name)}; sleep 1000")


def has(real: ProcessHarness, kind: type[Exited] | type[Gone], run: RunKey = A) -> bool:
    return any(isinstance(event, kind) and event.run == run for event in real.events)


def runs(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


@pytest.fixture
def bystander(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that belongs to no run of this daemon."""
    process = subprocess.Popen(["sleep", "1000"], env={"HOSTMANAGER_RUN": "somebody.else"})
    yield process
    process.kill()
    process.wait()


@pytest.fixture(params=["real", "scanning"])
def either(request: pytest.FixtureRequest) -> ProcessHarness:
    """Return a harness that finds trees by descent, and one that scans /proc."""
    harness: ProcessHarness = request.getfixturevalue(request.param)
    return harness


@pytest.mark.parametrize("how", ESCAPES)
def test_a_process_that_daemonised_keeps_the_run_from_being_gone(either: ProcessHarness, how: str) -> None:
    real = either
    escaped = launch_and_escape(real, ESCAPES[how])
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
def test_a_child_without_other_evidence_is_found_by_descent(real: ProcessHarness, signum: int) -> None:
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
def test_killing_the_whole_tree_reaches_a_process_that_daemonised(either: ProcessHarness, how: str) -> None:
    real = either
    escaped = launch_and_escape(real, ESCAPES[how])
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not runs(escaped)


def test_term_reaches_the_tree_of_a_living_main_process_once(real: ProcessHarness) -> None:
    signals = real.directory / "signals"
    child = (
        f"trap 'echo term >> {signals}' TERM; : > {real.directory}/child; while :; do sleep 1000 & wait; done"
    )
    real.driver.launch(
        A, real.script("a", f'trap : TERM; (setsid sh -c "{child}" &); while :; do sleep 1000 & wait; done')
    )
    real.wait_for((real.directory / "child").exists)
    real.driver.stop(A, signal.SIGTERM, whole_tree=True)
    real.wait_for(lambda: signals.exists() and signals.read_text() != "")
    real.run(real.command("other", "true"))
    assert signals.read_text() == "term\n"
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not real.alive("a")


def test_killing_wins_against_a_tree_that_keeps_forking(either: ProcessHarness) -> None:
    real = either
    script = real.directory / "fork.py"
    script.write_text(FORKS)
    real.driver.launch(
        A, real.script("a", f"{sys.executable} {script}; : > {real.settled('a')}; exec sleep 1000")
    )
    real.settle("a")
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert not real.alive("a")


def test_a_descendant_whose_parent_does_not_reap_it_counts_as_gone(real: ProcessHarness) -> None:
    real.driver.launch(A, real.script("a", f"sleep 1000 & echo $! > {real.settled('a')}; exec sleep 1000"))
    real.wait_for(lambda: real.settled("a").exists() and bool(real.settled("a").read_text()))
    os.kill(int(real.settled("a").read_text()), signal.SIGKILL)  # a zombie, because `sleep` reaps no child
    real.driver.stop(A, signal.SIGINT, whole_tree=False)
    real.wait_for(lambda: has(real, Gone))


def test_bystanders_are_left_alone(real: ProcessHarness, bystander: subprocess.Popen[bytes]) -> None:
    real.driver.launch(A, real.script("a", f"sleep 1000 & : > {real.settled('a')}; sleep 1000"))
    real.settle("a")
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: has(real, Gone))
    assert bystander.poll() is None


def test_one_tree_s_end_does_not_touch_another_s(real: ProcessHarness) -> None:
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


def test_many_that_end_at_once_are_all_gone(either: ProcessHarness) -> None:
    real = either
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


def test_a_stop_after_the_unobserved_end_of_the_last_descendant_does_nothing(
    either: ProcessHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = either
    monkeypatch.setattr(ProcessTable, "fresh", 0.0)  # as if the last scan were old
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
    while runs(left):  # the loop has not turned since the end
        gone.wait(0.01)
    real.driver.stop(A, signal.SIGTERM, whole_tree=True)
    real.wait_for(lambda: any(isinstance(event, Gone) for event in real.events))


def test_a_hidden_foreign_process_does_not_keep_a_run_alive(
    real: ProcessHarness, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(path: str) -> bytes:
        if path.startswith(f"/proc/{bystander.pid}/"):  # like a /proc with the mount option hidepid=1
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return read_file(path)

    monkeypatch.setattr(pidfds, "read_file", hidden)
    real.run(real.command("a", "true"))
    assert has(real, Gone)
