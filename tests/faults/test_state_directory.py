"""Full and read-only state directories: agents run on, stops work, and no unrecorded start happens."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon, Site
from tests.faults.machine import MountNamespace, fill
from tests.waiting import wait_until

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN

Repair = Callable[[], None]


def write(site: Site, ids: str) -> None:
    """Write a config with these instances, all up, and with output elsewhere."""
    backoff = {"initial": 0, "maximum": 0.2}
    site.write(
        [{"instance-id": i, "command": ["sleep", "100000"], "restart": {"backoff": backoff}} for i in ids]
    )
    logs = site.folder / "logs"
    text = site.file.read_text().replace("    agent-instances:", f"    log-dir: {logs}\n    agent-instances:")
    site.file.write_text(text)


def full(site: Site, namespace: MountNamespace) -> Repair:
    return fill(namespace.outside(site.state_dir)).unlink


def read_only(site: Site, namespace: MountNamespace) -> Repair:
    namespace.make_read_only(site.state_dir)
    return lambda: namespace.unmount(site.state_dir)


broken = pytest.mark.parametrize("break_disk", [full, read_only])


def start(site: Site, namespace: MountNamespace) -> Daemon:
    return site.start(program=namespace.enter(site.folder))


def update(daemon: Daemon, **targets: str) -> None:
    """Set targets, whether or not the daemon can store them."""
    try:
        daemon.update(**targets)
    except grpc.RpcError as error:
        assert "cannot store the change" in str(error)  # noqa: PT017 -- or no error


def failed(daemon: Daemon, instance_id: str) -> str:
    def message() -> str:
        events = [e for e in daemon.events(instance_id) if e.reason == "StartFailed"]
        return events[-1].message if events else ""

    return wait_until(message, f"{instance_id} to fail to start")


@broken
def test_without_a_writable_state_directory_agents_run_on_stops_work_and_starts_fail(
    site: Site, namespace: MountNamespace, break_disk: Callable[[Site, MountNamespace], Repair]
) -> None:
    namespace.mount_tmpfs(site.state_dir, "400k")
    write(site, "abc")
    first = start(site, namespace)
    first.wait_for_all(UP)
    repair = break_disk(site, namespace)
    write(site, "abcd")
    try:
        first.reload()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017 -- a read-only view keeps open files
    why = failed(first, "d")
    assert "no space left" in why or "read-only" in why
    assert str(site.state_dir / "runs") in why
    update(first, b="down")
    first.wait_for("b", DOWN)
    os.kill(first.instance("a").process.pid, signal.SIGKILL)
    wait_until(lambda: "Exited" in [e.reason for e in first.events("a")], "the exit to be observed")
    kept = first.instance("c").process.pid

    # The next daemon recovers the running agents only.
    first.end(signal.SIGKILL)
    second = start(site, namespace)
    assert second.instance("c").process.pid == kept
    failed(second, "d")
    assert "Traceback" not in first.log.read_text() + second.log.read_text()
    update(second, c="down")
    second.wait_for("c", DOWN)
    assert kept not in site.processes()

    repair()
    for instance_id in "ad":
        second.wait_for(instance_id, UP)
    second.update(b="up")
    second.wait_for("b", UP)
    running = sorted(i.process.pid for i in second.instances().values() if i.process.pid)
    assert sorted(site.processes()) == running
    second.end(signal.SIGKILL)
    third = start(site, namespace)
    third.wait_for("d", UP)
    assert sorted(site.processes()) == running, "every record exists again"


def test_a_record_that_could_not_be_voided_is_voided_later(site: Site, namespace: MountNamespace) -> None:
    namespace.mount_tmpfs(site.state_dir, "400k")
    write(site, "ab")
    daemon = start(site, namespace)
    daemon.wait_for_all(UP)
    repair = read_only(site, namespace)
    daemon.update(a="down", b="down")
    daemon.wait_for_all(DOWN)
    runs = namespace.outside(site.state_dir) / "runs"
    assert len(list(runs.glob("*.json"))) == 2
    warning = "cannot void the runtime record"
    wait_until(lambda: warning in daemon.log.read_text(), "the warning")
    assert daemon.log.read_text().count(warning) == 1
    repair()
    daemon.update(a="up")
    daemon.wait_for("a", UP)
    assert [file.name for file in runs.glob("*.json")] == ["a.json"]


@pytest.mark.parametrize("removed", ["runs", ""])
def test_a_state_directory_removed_while_agents_run_makes_no_second_copies(site: Site, removed: str) -> None:
    command = ["sleep", "100000"]
    site.write(
        [{"instance-id": "a", "command": command}, {"instance-id": "b", "command": command, "manage": "down"}]
    )
    first = site.start()
    first.update(b="up")
    first.wait_for_all(UP)
    before = {i.instance_id: i.process.pid for i in first.instances().values()}
    shutil.rmtree(site.state_dir / removed)
    first.end(signal.SIGKILL)
    second = site.start()
    second.wait_for_all(UP)
    assert {i.instance_id: i.process.pid for i in second.instances().values()} == before
    assert sorted(site.processes()) == sorted(before.values())
    second.update(all="down")
    second.wait_for_all(DOWN)
    assert site.processes() == []


def test_a_new_state_directory_on_a_read_only_disk_is_an_error(site: Site, namespace: MountNamespace) -> None:
    namespace.mount_tmpfs(site.state_dir, "400k")
    namespace.make_read_only(site.state_dir)
    write(site, "a")
    daemon = site.start(program=namespace.enter(site.folder), wait=False)
    assert daemon.process.wait(30) == 1
    log = daemon.log.read_text()
    assert "Read-only file system" in log
    assert "--state-dir" in log
    assert site.processes() == []
