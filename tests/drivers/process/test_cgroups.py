"""One cgroup per run: the driver finds processes that hide in every other way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hostmanager_server.core.events import Exited, Gone, RunKey, StartFailed
from hostmanager_server.drivers.exec import direct, gate
from hostmanager_server.drivers.process.records.record import Record
from hostmanager_server.linux.pidfds import read_stat
from hostmanager_server.linux.spawning import Heritage, Spawner, _SpawnRequest

from tests.cgroups import escape, groups_in, populated, processes_in
from tests.drivers.process.test_adoption import launch_and_kill_daemon, record, rewrite
from tests.drivers.process.test_process import with_process

if TYPE_CHECKING:
    from tests.drivers.conftest import ProcessHarness

A = RunKey("a", 1)


def launch(real: ProcessHarness, code: str, run: RunKey = A) -> int:
    """Launch an agent with an escaping process, and return the pid of the latter."""
    pid_file = real.directory / f"escaped{run.number}"
    real.driver.launch(run, real.command("a", sys.executable, "-c", code, str(pid_file)))
    real.wait_for(pid_file.exists)
    return int(pid_file.read_text())


def has(real: ProcessHarness, kind: type[Exited] | type[Gone]) -> bool:
    return any(isinstance(event, kind) for event in real.events)


def runs(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.alive


def groups(cgroup: Path) -> list[Path]:
    """Return the existing cgroups of runs."""
    return groups_in(cgroup / "agents")


def test_the_agent_starts_in_its_cgroup(grouped: ProcessHarness, cgroup: Path) -> None:
    output = grouped.run(grouped.command("a %b", "grep", "0::", "/proc/self/cgroup"))
    assert f"{cgroup.name}/agents/a%20%25b." in output
    assert groups(cgroup) == []


def test_a_start_that_fails_leaves_no_cgroup(grouped: ProcessHarness, cgroup: Path) -> None:
    spec = with_process(grouped.command("a", "true"), limits=(("nonsense", 1),))
    grouped.driver.launch(A, spec)
    assert isinstance(grouped.events[-1], StartFailed)
    assert groups(cgroup) == []


class JoiningSpawner(Spawner):
    """A spawner on a kernel that starts no process inside a cgroup."""

    def _hand_down(self, request: _SpawnRequest, heritage: Heritage) -> None:
        super()._hand_down(request, heritage)
        request.join = int(heritage.cgroup >= 0)


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let agents enter their cgroups themselves; name this fixture before `grouped`."""
    monkeypatch.setattr(direct, "Spawner", JoiningSpawner)


def test_an_agent_enters_its_cgroup_where_the_kernel_cannot_start_it_there(
    joining: None, grouped: ProcessHarness, cgroup: Path
) -> None:
    output = grouped.run(grouped.command("a", "grep", "0::", "/proc/self/cgroup"))
    assert f"{cgroup.name}/agents/a." in output
    assert groups(cgroup) == []


def test_without_a_cgroup_a_process_can_hide(real: ProcessHarness, caplog: pytest.LogCaptureFixture) -> None:
    # The reason for cgroups. If this test fails, the tests below prove nothing.
    escaped = launch(real, escape())
    try:
        real.driver.stop(A, signal.SIGKILL, whole_tree=True)
        real.wait_for(lambda: has(real, Gone))
        assert runs(escaped)
        assert f"pid {escaped} " in caplog.text  # a guess could end a process of another run
    finally:
        os.kill(escaped, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_hides_in_every_other_way_is_ended_with_its_tree(
    grouped: ProcessHarness, cgroup: Path, signum: int
) -> None:
    escaped = launch(grouped, escape())
    grouped.driver.stop(A, signum, whole_tree=True)
    grouped.wait_for(lambda: has(grouped, Gone))
    assert not runs(escaped)
    assert groups(cgroup) == []


def test_a_process_that_hides_keeps_its_run_from_being_gone(grouped: ProcessHarness, cgroup: Path) -> None:
    escaped = launch(grouped, escape("pass"))
    grouped.wait_for(lambda: has(grouped, Exited))
    grouped.run(grouped.command("other", "true"))
    assert [event.run.instance_id for event in grouped.events if isinstance(event, Gone)] == ["other"]
    os.kill(escaped, signal.SIGKILL)
    grouped.wait_for(lambda: A in [event.run for event in grouped.events if isinstance(event, Gone)])
    assert groups(cgroup) == []


def test_a_hidden_process_of_a_dead_main_process_is_adopted(grouped: ProcessHarness, cgroup: Path) -> None:
    pid_file = grouped.directory / "escaped"
    pid = int(launch_and_kill_daemon(grouped, sys.executable, "-c", escape("pass"), str(pid_file)))
    grouped.wait_for(lambda: pid_file.exists() and not runs(pid))
    escaped = int(pid_file.read_text())
    (adopted,) = grouped.driver.adopt({})
    assert (adopted.run, adopted.ended is not None, adopted.gone) == (A, True, False)
    assert runs(escaped)
    grouped.driver.stop(A, signal.SIGKILL, whole_tree=True)
    grouped.wait_for(lambda: has(grouped, Gone))
    assert not runs(escaped)
    assert groups(cgroup) == []


def test_a_driver_without_cgroups_uses_those_of_its_predecessor(
    grouped: ProcessHarness, cgroup: Path
) -> None:
    escaped = launch(grouped, escape())
    grouped.cgroup = None
    grouped.replace_driver()
    grouped.driver.adopt({})
    grouped.driver.stop(A, signal.SIGKILL, whole_tree=True)
    grouped.wait_for(lambda: has(grouped, Gone))
    assert not runs(escaped)
    assert groups(cgroup) == []


def test_groups_of_runs_that_are_over_are_removed_at_adoption(grouped: ProcessHarness, cgroup: Path) -> None:
    # One cgroup of a daemon that died before the record, one of a recorded run that ended.
    gate_pid = int(launch_and_kill_daemon(grouped, "true", crash="before record"))
    grouped.driver.launch(A, grouped.command("a", "sleep", "1000"))
    grouped.driver.disown()
    grouped.crash("a")
    grouped.wait_for(lambda: not runs(gate_pid) and not populated(cgroup))
    assert len(groups(cgroup)) == 2
    grouped.replace_driver()
    assert [one.gone for one in grouped.driver.adopt({})] == [True]
    assert groups(cgroup) == []


def test_processes_of_a_run_without_a_record_are_logged_and_left_alone(
    grouped: ProcessHarness, cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lets_go = f"import os; os.close({gate.lock_descriptor()}); os.execvp('sleep', ['sleep', '1000'])"
    pid = int(launch_and_kill_daemon(grouped, sys.executable, "-c", lets_go))
    grouped.wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"))
    record(grouped).unlink()
    assert grouped.driver.adopt({}) == []
    assert str(pid) in caplog.text
    assert runs(pid)
    os.kill(pid, signal.SIGKILL)
    grouped.wait_for(lambda: not populated(cgroup))
    grouped.run(grouped.command("other", "true"))
    assert groups(cgroup) == []


def test_a_group_that_is_not_the_recorded_one_is_left_alone(grouped: ProcessHarness, cgroup: Path) -> None:
    pid = int(launch_and_kill_daemon(grouped, "sleep", "1000"))
    stranger = cgroup / "stranger"
    stranger.mkdir()
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        (stranger / "cgroup.procs").write_text(str(bystander.pid))
        rewrite(record(grouped), cgroup={"path": str(stranger), "inode": stranger.stat().st_ino + 1})
        grouped.driver.adopt({})
        grouped.driver.stop(A, signal.SIGKILL, whole_tree=True)
        grouped.wait_for(lambda: has(grouped, Gone))
        assert not runs(pid)
        assert bystander.poll() is None
        assert stranger.exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_records_without_a_group_are_read(grouped: ProcessHarness) -> None:
    launch_and_kill_daemon(grouped, "sleep", "1000")
    fields = Record.from_json(record(grouped).read_bytes())
    assert fields.group is not None
    rewrite(record(grouped), cgroup=None)
    (adopted,) = grouped.driver.adopt({})
    assert adopted.run == A
    grouped.driver.stop(A, signal.SIGKILL, whole_tree=True)
    grouped.wait_for(lambda: has(grouped, Gone))


def test_groups_that_an_agent_made_below_its_own_are_ended_and_removed(
    grouped: ProcessHarness, cgroup: Path
) -> None:
    nest = (
        "group = grep('0::')\nos.makedirs(group + '/x/y')\n"
        "open(group + '/x/y/cgroup.procs', 'w').write(open(sys.argv[1]).read())\n"
        "os.rename(sys.argv[1], sys.argv[1] + '.nested')\ntime.sleep(1000)"
    )
    top = str(cgroup).removesuffix(f"/{cgroup.name}")
    find = f"grep = lambda key: {top!r} + open('/proc/self/cgroup').read().split(key)[1].split('\\n')[0]\n"
    nested = grouped.directory / "escaped.nested"
    code = escape(find + nest)
    grouped.driver.launch(
        A, grouped.command("a", sys.executable, "-c", code, str(grouped.directory / "escaped"))
    )
    grouped.wait_for(nested.exists)
    escaped = int(nested.read_text())
    grouped.driver.stop(A, signal.SIGKILL, whole_tree=True)
    grouped.wait_for(lambda: has(grouped, Gone))
    assert not runs(escaped)
    assert groups(cgroup) == []


def test_an_agent_that_leaves_its_cgroup_is_ended_by_other_evidence(
    grouped: ProcessHarness, cgroup: Path
) -> None:
    elsewhere = cgroup / "elsewhere"
    elsewhere.mkdir()
    text = f"echo 0 > {elsewhere}/cgroup.procs; (setsid sleep 1000 &); : > {grouped.settled('a')}; sleep 1000"
    grouped.driver.launch(A, grouped.script("a", text))
    grouped.settle("a")
    assert len(processes_in(elsewhere)) > 1
    grouped.driver.stop(A, signal.SIGKILL, whole_tree=True)
    grouped.wait_for(lambda: has(grouped, Gone))
    assert processes_in(elsewhere) == []


def test_without_cgroups_agents_run_after_one_warning(
    grouped: ProcessHarness, cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cgroup / "cgroup.max.descendants").write_text("0")
    for number in (1, 2):
        assert grouped.run(grouped.command("a", "echo", "ran"), number).count("ran") == number
    assert caplog.text.count("cannot create the cgroup") == 1
    (cgroup / "cgroup.max.descendants").write_text("max")
    grouped.run(grouped.command("a", "true"), 3)
    assert groups(cgroup) == []


def test_a_vanished_cgroup_is_logged_once_and_the_tree_is_ended(
    grouped: ProcessHarness, cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [RunKey("a", 1), RunKey("b", 1)]
    for run in keys:
        settled = grouped.settled(run.instance_id)
        text = f"echo 0 > {cgroup}/cgroup.procs; (setsid sleep 1000 &); : > {settled}; sleep 1000"
        grouped.driver.launch(run, grouped.script(run.instance_id, text))
        grouped.settle(run.instance_id)
    for group in groups(cgroup):
        group.rmdir()
    for run in keys:
        grouped.driver.stop(run, signal.SIGKILL, whole_tree=True)
    grouped.wait_for(lambda: sum(isinstance(event, Gone) for event in grouped.events) == 2)
    assert processes_in(cgroup) == []
    assert caplog.text.count("another program removed the cgroup") == 1
