"""Descriptors passed or copied to another process, which does not join the run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, Gone, RunKey
from hostmanager_server.core.spec import ProcessSpec
from hostmanager_server.drivers.exec import gate
from hostmanager_server.drivers.process import membership

from tests.drivers.process.holders import Holder, holder
from tests.drivers.process.test_adoption import A, gone, launch_and_kill_daemon, launch_steady, record, runs

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

NOBODY = 65534
SECOND = RunKey("a", 2)

# Passes the descriptor of its record to the listener on the socket $1, then executes $2.
PASSES = """
import os, socket, sys, time
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
with socket.socket(socket.AF_UNIX) as to:
    to.connect(sys.argv[1])
    socket.send_fds(to, [b"x"], [250])
exec(sys.argv[2])
"""
# In the victim: receives the descriptor, and keeps it under both numbers.
TAKES = "taken = socket.recv_fds(server.accept()[0], 1, 1)[1][0]; os.dup2(taken, AT)"


def listens(victim: Holder, at: Path) -> None:
    new = str(at.with_suffix(".new"))
    victim.do(f"server = socket.socket(socket.AF_UNIX); server.bind({new!r}); server.listen()")
    victim.do(f"os.rename({new!r}, {str(at)!r})")


def passing(real: ProcessHarness, then: str) -> list[str]:
    return [sys.executable, "-c", PASSES, str(real.directory / "socket"), then]


def as_nobody() -> list[str]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv of util-linux")
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


def stays(victim: Holder) -> None:
    """Keep the user of the test."""


def becomes_nobody(victim: Holder) -> None:
    as_nobody()
    victim.do(f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})")


@pytest.mark.parametrize("user", [stays, becomes_nobody], ids=["same user", "another user"])
@pytest.mark.parametrize("then", ["time.sleep(1000)", "pass"], ids=["stopped", "ended"])
def test_a_process_with_a_passed_descriptor_is_left_alone(
    real: ProcessHarness, user: Callable[[Holder], None], then: str, caplog: pytest.LogCaptureFixture
) -> None:
    with holder() as victim:
        listens(victim, real.directory / "socket")
        user(victim)
        real.driver.launch(A, real.command("a", *passing(real, then)))
        victim.do(TAKES)
        real.driver.stop(A, signal.SIGKILL, whole_tree=True)
        real.wait_for(lambda: gone(real))
        assert victim.is_alive()
        assert f"pid {victim.process.pid}" in caplog.text
        # The instance can run again, and end while the victim lives.
        caplog.clear()
        real.driver.launch(SECOND, real.command("a", "sleep", "1000"))
        real.driver.stop(SECOND, signal.SIGKILL, whole_tree=True)
        real.wait_for(lambda: any(isinstance(event, Gone) and event.run == SECOND for event in real.events))
        assert caplog.text == ""
        assert victim.is_alive()


def test_a_later_daemonised_process_with_a_passed_descriptor_is_left_alone(
    real: ProcessHarness,
) -> None:
    real.driver.launch(A, real.command("a", *passing(real, "time.sleep(1000)")))
    code = (
        "import os, socket, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\n"
        "server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1] + '.new'); server.listen()\n"
        "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
        "os.dup2(socket.recv_fds(server.accept()[0], 1, 1)[1][0], 250)\n"
        "open(sys.argv[2], 'w').write(str(os.getpid())); os.rename(sys.argv[2], sys.argv[2] + '.done')\n"
        "time.sleep(1000)\n"
    )
    pid_file = real.directory / "pid"
    subprocess.run([sys.executable, "-c", code, str(real.directory / "socket"), str(pid_file)], check=True)
    done = Path(f"{pid_file}.done")
    real.wait_for(done.exists)
    victim = int(done.read_text())
    try:
        real.driver.stop(A, signal.SIGKILL, whole_tree=True)
        real.wait_for(lambda: gone(real))
        assert runs(victim)
    finally:
        os.kill(victim, signal.SIGKILL)


def test_the_next_daemon_leaves_a_process_with_a_passed_descriptor_alone(
    real: ProcessHarness, caplog: pytest.LogCaptureFixture
) -> None:
    with holder() as victim:
        listens(victim, real.directory / "socket")
        pid = int(launch_and_kill_daemon(real, *passing(real, "pass")))
        victim.do(TAKES)
        real.wait_for(lambda: not runs(pid))
        for one in real.driver.adopt({}):
            real.driver.stop(one.run, signal.SIGKILL, whole_tree=True)
        real.wait_for(lambda: gone(real) or real.records() == [])
        assert victim.is_alive()
        # A removed record does not make the run count as alive.
        real.replace_driver()
        assert real.driver.adopt({}) == []
        assert victim.is_alive()


def test_a_removed_record_with_only_a_foreign_holder_is_rejected(real: ProcessHarness) -> None:
    with holder() as victim:
        listens(victim, real.directory / "socket")
        real.driver.launch(A, real.command("a", *passing(real, "time.sleep(1000)")))
        victim.do(TAKES)
        record(real).unlink()
        real.replace_driver()
        os.kill(real.pid("a"), signal.SIGKILL)
        real.wait_for(lambda: not runs(real.pid("a")))
        assert real.driver.adopt({}) == []
        assert victim.is_alive()


def test_another_user_s_process_with_the_marker_of_an_agent_is_left_alone(real: ProcessHarness) -> None:
    prefix = as_nobody()
    pid = launch_steady(real)
    environ = dict(
        item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_text().split("\0") if item
    )
    copied = subprocess.Popen([*prefix, "sleep", "1000"], env=environ)
    own = subprocess.Popen(["sleep", "1000"], env=environ)
    try:
        real.wait_for(lambda: membership.real_uid(copied.pid) == NOBODY)
        real.driver.stop(A, signal.SIGKILL, whole_tree=True)
        real.wait_for(lambda: gone(real))
        assert copied.poll() is None
        assert own.poll() is not None  # proof that the marker was right
    finally:
        for process in (copied, own):
            process.kill()
            process.wait()


# --- processes of the agent still end with it

HIDES = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    '        code = \'import os, sys, time; open(sys.argv[1], "w").write(str(os.getpid())); '
    'os.rename(sys.argv[1], sys.argv[1] + ".done"); time.sleep(1000)\'\n'
    "        os.execve(sys.executable, [sys.executable, '-c', code, sys.argv[1]], {})\n"
    "    os._exit(0)\n"
    "os.wait(); time.sleep(1000)"
)


def hide(real: ProcessHarness, user: str = "") -> int:
    """Launch an agent with a hidden child, and return the child's pid.

    Only descriptor and mark connect the child to the agent.
    """
    place = real.directory / "hidden"
    place.mkdir()
    place.chmod(0o777)
    python = sys.executable
    if user:
        parents = [real.directory, *real.directory.parents]
        for folder in parents[:-2]:
            folder.chmod(folder.stat().st_mode | 0o011)
        from tests.referee.switch_user import interpreter_for

        try:
            python = interpreter_for(user)
        except LookupError as error:
            pytest.skip(str(error))
    spec = real.command("a", python, "-c", HIDES, str(place / "pid"))
    spec = replace(spec, process=ProcessSpec((python, "-c", HIDES, str(place / "pid")), user=user))
    real.driver.launch(A, spec)
    done = place / "pid.done"
    real.wait_for(lambda: done.exists() or any(isinstance(event, Exited) for event in real.events))
    return int(done.read_text())


@pytest.mark.parametrize("user", ["", "nobody"], ids=["own user", "another user"])
@pytest.mark.parametrize("successor", [False, True], ids=["same daemon", "next daemon"])
def test_a_process_with_only_descriptor_and_mark_is_ended_with_its_agent(
    real: ProcessHarness, user: str, *, successor: bool
) -> None:
    if user:
        as_nobody()
    hidden = hide(real, user)
    if successor:
        real.replace_driver()
        assert [one.run for one in real.driver.adopt({})] == [A]
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not runs(hidden)


def test_an_agent_that_became_another_user_keeps_its_children(real: ProcessHarness) -> None:
    as_nobody()
    code = (
        f"import os, sys, time; os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.closerange(3, 300); os.write(1, str(os.getpid()).encode() + b'\\n')\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait(); time.sleep(1000)"
    )
    real.driver.launch(A, real.command("a", sys.executable, "-c", code))
    log = real.directory / "log" / "a.log"
    real.wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    daemonised = int(log.read_text())
    real.driver.stop(A, signal.SIGKILL, whole_tree=True)
    real.wait_for(lambda: gone(real))
    assert not runs(daemonised)


def test_a_mark_is_inherited_and_distinguished() -> None:
    with holder() as other, holder() as stranger:
        mark = membership.put_mark(other.process.pid)
        assert mark is not None
        assert not membership.has_mark(stranger.process.pid, mark)
        child = int(other.do("child = subprocess.Popen(['sleep', '1000'], env={}); print(child.pid)"))
        assert membership.has_mark(child, mark)
        assert not membership.has_mark(child, mark + 1)
        assert not membership.has_mark(child, None)
        other.do("child.kill(); child.wait()")
        assert not membership.has_mark(child, mark)
    assert gate.lock_descriptor() == 250
