"""The measurement of real process trees and cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hostmanager_server.core.usage import MeasuredRun
from hostmanager_server.drivers.usage import meter as meter_module
from hostmanager_server.drivers.usage.cgroup_files import CgroupFiles, read_group
from hostmanager_server.drivers.usage.meter import UsageMeter
from hostmanager_server.drivers.usage.process_scan import count_descriptors, read_process

from tests.docker_engine import RealEngine
from tests.waiting import wait_until

# An agent with 40 MB of memory, a thread, a child with three open files, and a grandchild.
AGENT = """
import subprocess, sys, threading, time
held = b"x" * 40_000_000
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
child = "import subprocess, time; f = [open('/dev/null') for _ in range(3)]; " \\
        "subprocess.Popen(['sleep', '600']); print('ready', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(600)
"""


@pytest.fixture
def agent() -> Iterator[subprocess.Popen[bytes]]:
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE, start_new_session=True)
        )
        stack.callback(os.killpg, process.pid, 9)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


def run_of(pid: int, started: float | None = None) -> MeasuredRun:
    return MeasuredRun("agent", 1, pid, started)


@pytest.mark.parametrize("walked", [16, -1])  # by descent, or by a scan of all processes
def test_the_whole_tree_of_a_run_counts(
    agent: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, walked: int
) -> None:
    monkeypatch.setattr(meter_module, "_WALKED", walked)
    usage = UsageMeter().measure([run_of(agent.pid)])["agent"]
    assert usage.processes == 3
    assert usage.tasks == 4
    assert usage.memory > 40_000_000
    assert usage.descriptors is not None
    assert usage.descriptors >= 12
    assert usage.cpu_time > 0.0
    assert not usage.from_cgroup


def test_a_later_process_with_the_pid_is_not_measured(agent: subprocess.Popen[bytes]) -> None:
    own = read_process(agent.pid)
    assert own is not None
    assert UsageMeter().measure([run_of(agent.pid, own.started)])
    assert UsageMeter().measure([run_of(agent.pid, own.started - 60.0)]) == {}
    assert UsageMeter().measure([run_of(2**22 - 1)]) == {}


def test_orphans_count_for_their_run_by_session_and_by_environment() -> None:
    """A subreaper measures a run whose process has left its parent, and another one in its own session."""
    script = (
        "import os, subprocess, sys, time\n"
        "from hostmanager_server.linux.subreaper import set_subreaper\n"
        "from hostmanager_server.core.usage import MeasuredRun\n"
        "from hostmanager_server.drivers.usage import meter\n"
        "set_subreaper()\n"
        "agent = subprocess.Popen(['sh', '-c', '(sleep 600 &); (setsid sleep 600 &); exec sleep 600'],\n"
        "    start_new_session=True, env={**os.environ, 'HOSTMANAGER_INSTANCE_ID': 'a'})\n"
        "for walked in (16, -1):\n"
        "    meter._WALKED = walked\n"
        "    end = time.monotonic() + 30\n"
        "    while meter.UsageMeter().measure([MeasuredRun('a', 1, agent.pid)])['a'].processes != 3:\n"
        "        assert time.monotonic() < end\n"
        "os.system('kill -9 -%d; pkill -9 -P %d' % (agent.pid, os.getpid()))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def test_descriptors_are_counted_as_a_listing_does() -> None:
    with open(os.devnull), open(os.devnull):
        pid = os.getpid()
        assert abs((count_descriptors([pid]) or 0) - len(os.listdir(f"/proc/{pid}/fd"))) <= 1
    assert count_descriptors([2**22 - 1]) == 0


MOUNTS = """\
30 20 0:26 / {root}/unified rw - cgroup2 cgroup rw
31 20 0:27 / {root}/memory rw - cgroup cgroup rw,memory
32 20 0:28 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct
33 20 0:29 / {root}/pids rw - cgroup cgroup rw,pids
"""


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_version_2_of_cgroups_counts_a_group(tmp_path: Path) -> None:
    group = tmp_path / "g"
    write(
        group, memory__current="5000\n", memory__max="9000\n", memory__stat="anon 1\ninactive_file 1000\n",
        cpu__stat="usage_usec 2500000\nuser_usec 1\n", pids__current="7\n", cgroup__procs="1\n2\n",
    )  # fmt: skip
    write(group / "below", cgroup__procs="3\n")
    usage = read_group({"": str(group)})
    assert (usage.memory, usage.memory_limit, usage.cpu_time, usage.tasks) == (4000, 9000, 2.5, 7)
    assert usage.pids == (1, 2, 3)
    (group / "memory.max").write_text("max\n")
    assert read_group({"": str(group)}).memory_limit is None


def test_version_1_of_cgroups_counts_a_group(tmp_path: Path) -> None:
    write(
        tmp_path / "memory/docker/c", memory__usage_in_bytes="5000", memory__limit_in_bytes=str(2**63 - 4096),
        memory__stat="total_inactive_file 500\n",
    )  # fmt: skip
    write(tmp_path / "cpu/docker/c", cpuacct__usage="1500000000")
    write(tmp_path / "pids/docker/c", pids__current="4", cgroup__procs="9\n")
    write(tmp_path / "unified/docker/c", cgroup__procs="")
    names = {"": "unified", "memory": "memory", "cpuacct": "cpu", "pids": "pids"}
    usage = read_group({key: str(tmp_path / name / "docker/c") for key, name in names.items()})
    assert (usage.memory, usage.memory_limit, usage.cpu_time, usage.tasks) == (4500, None, 1.5, 4)
    assert usage.pids == (9,)
    assert read_group({}) == read_group({"": str(tmp_path / "gone")})


def test_the_mounts_tell_the_directories_of_a_process() -> None:
    found = CgroupFiles().directories(os.getpid())
    assert all(Path(directory).is_dir() for directory in found.values())
    assert CgroupFiles(MOUNTS.format(root="/x")).directories(2**22 - 1) == {}


def test_a_container_that_is_not_on_this_machine_is_not_measured() -> None:
    run = MeasuredRun("db", 1, os.getpid(), container_ids=("f" * 64,))
    assert UsageMeter().measure([run]) == {}


def test_busy_processes_use_their_cpu_time(agent: subprocess.Popen[bytes]) -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        meter = UsageMeter()
        wait_until(lambda: meter.measure([run_of(busy.pid)])["agent"].cpu_time > 0.1, "CPU time")
    finally:
        busy.kill()
        busy.wait()


def test_all_containers_of_a_service_count(engine: RealEngine, image: str) -> None:
    ids = [engine.docker("run", "-d", "--network", "none", "-m", "64m", image).strip() for _ in range(2)]
    try:
        pid = int(engine.docker("inspect", "-f", "{{.State.Pid}}", ids[0]))
        one = UsageMeter().measure([MeasuredRun("db", 1, pid, container_ids=(ids[0],))])["db"]
        usage = UsageMeter().measure([MeasuredRun("db", 1, pid, container_ids=tuple(ids))])["db"]
        assert usage.processes == usage.tasks == 2 * one.processes > 0
        assert usage.from_cgroup
        assert usage.memory_limit == 2 * 64 * 2**20
        assert 0 < usage.memory < usage.memory_limit
    finally:
        engine.docker("rm", "-f", *ids)
