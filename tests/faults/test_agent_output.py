"""Full and read-only disks below the output of agents."""

from __future__ import annotations

import itertools
import os
import signal
from contextlib import suppress
from pathlib import Path

from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site
from tests.faults.machine import MountNamespace
from tests.waiting import wait_until

UP = pb.NEXT_ACTION_UP
# Writes numbered lines until a write fails, stores the number of written lines, and runs on.
WRITER = """
i=0
while echo "line $((i + 1))"; do i=$((i + 1)); done 2>/dev/null
echo $i > written.new; mv written.new written
exec sleep 100000
"""


def log_to(site: Site, folder: Path) -> None:
    text = site.file.read_text()
    site.file.write_text(text.replace("    agent-instances:", f"    log-dir: {folder}\n    agent-instances:"))


def archives(logs: Path) -> list[Path]:
    return [path for path in logs.glob("a.log.*") if path.suffix[1:].isdigit()]


def written(logs: Path) -> list[str]:
    """Return the lines of instance `a` from all files, oldest first."""
    files = [*sorted(archives(logs), key=lambda p: -int(p.suffix[1:])), logs / "a.log"]
    data = b"".join(file.read_bytes().lstrip(b"\0") for file in files)
    return data.decode().split("\n")


def test_agents_outlive_a_full_disk_and_no_line_is_lost(site: Site, namespace: MountNamespace) -> None:
    logs = namespace.mount_tmpfs(site.folder / "logs", "1m")
    backoff = {"backoff": {"initial": 0}}
    policy = {"size": "64K", "keep": 100}
    site.write([{"instance-id": "a", "command": ["sh", "-c", WRITER], "restart": backoff, "log": policy}])
    log_to(site, site.folder / "logs")
    daemon = site.start(program=namespace.enter(site.folder))
    wait_until((site.folder / "written").exists, "the disk to be full", 60)
    count = int((site.folder / "written").read_text())
    lines = [f"line {number}" for number in range(1, count + 1)]

    def complete() -> bool:
        with suppress(FileNotFoundError):  # archives are renamed
            return written(logs)[:count] == lines
        return False

    wait_until(complete, "every line once and in order")
    pid = daemon.instance("a").process.pid
    os.kill(pid, signal.SIGKILL)  # a start needs no space either
    wait_until(lambda: daemon.instance("a").process.pid not in (0, pid), "the agent to be replaced")
    assert daemon.log.read_text().count("cannot rotate") <= 1
    assert "Traceback" not in daemon.log.read_text()


def test_output_goes_to_the_state_directory_while_the_disk_of_the_log_directory_is_read_only(
    site: Site, namespace: MountNamespace
) -> None:
    folder = site.folder / "logs"
    namespace.mount_tmpfs(folder, "1m")
    backoff = {"backoff": {"initial": 0.05, "maximum": 0.2}}
    command = ["sh", "-c", "echo hello; exec sleep 100000"]
    site.write([{"instance-id": i, "command": command, "restart": backoff} for i in "ab"])
    log_to(site, folder)
    daemon = site.start(program=namespace.enter(site.folder))
    daemon.wait_for_all(UP)
    kept = daemon.instance("b").process.pid
    wait_until((namespace.outside(folder) / "a.log").read_text, "output of a")
    namespace.make_read_only(folder)
    os.kill(daemon.instance("a").process.pid, signal.SIGKILL)

    def problem() -> str:
        return "\n".join(daemon.stub.GetStatus(pb.GetStatusRequest()).manager.problems)

    told = wait_until(problem, "the problem to show in the status")
    assert f"cannot write the output in a.log to '{folder}': Read-only file system" in told
    daemon.wait_for("a", UP)
    assert daemon.instance("a").process.log_file == f"{site.state_dir}/logs/a.log"
    request = pb.TailLogsRequest(instance_id="a", lines=10)
    answer = list(itertools.chain.from_iterable(m.lines for m in daemon.stub.TailLogs(request, timeout=20)))
    assert [line.text for line in answer] == ["hello"]
    assert "LogDirUnusable" in [event.reason for event in daemon.events()]

    namespace.unmount(folder)
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["a"]))
    wait_until(lambda: not problem(), "the log directory to be in use again")
    assert daemon.instance("a").process.log_file == f"{folder}/a.log"
    assert daemon.instance("b").process.pid == kept
