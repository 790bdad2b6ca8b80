"""A state directory that is full or read-only: agents go on, stops work, nothing is started unrecorded."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon, Site, eventually
from tests.faults.ground import MountSpace, fill

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN

Mend = Callable[[], None]


def write(site: Site, ids: str) -> None:
    """Instances of these names, all up; the log is elsewhere."""
    backoff = {"initial": 0, "maximum": 0.2}
    site.write(
        [{"instance-id": i, "command": ["sleep", "100000"], "restart": {"backoff": backoff}} for i in ids]
    )
    logs = site.folder / "logs"
    text = site.file.read_text().replace("    agent-instances:", f"    log-dir: {logs}\n    agent-instances:")
    site.file.write_text(text)


def full(site: Site, space: MountSpace) -> Mend:
    return fill(space.outside(site.state_dir)).unlink


def read_only(site: Site, space: MountSpace) -> Mend:
    space.make_read_only(site.state_dir)
    return lambda: space.unmount(site.state_dir)


broken = pytest.mark.parametrize("break_disk", [full, read_only])


def start(site: Site, space: MountSpace) -> Daemon:
    return site.start(program=space.enter(site.folder))


def ask(daemon: Daemon, **targets: str) -> None:
    """An update whose being forgotten does not matter here."""
    try:
        daemon.update(**targets)
    except grpc.RpcError as error:
        assert "cannot store the change" in str(error)  # noqa: PT017 -- or no error


def failed(daemon: Daemon, instance_id: str) -> str:
    def message() -> str:
        events = [e for e in daemon.events(instance_id) if e.reason == "StartFailed"]
        return events[-1].message if events else ""

    return eventually(message, f"{instance_id} to fail to start")


@broken
def test_what_runs_goes_on_what_cannot_be_recorded_is_not_started_and_stops_work(
    site: Site, space: MountSpace, break_disk: Callable[[Site, MountSpace], Mend]
) -> None:
    space.mount_tmpfs(site.state_dir, "400k")
    write(site, "abc")
    first = start(site, space)
    first.wait_for_all(UP)
    mend = break_disk(site, space)
    write(site, "abcd")
    try:
        first.reload()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017 -- a read-only view keeps open files
    why = failed(first, "d")
    assert "no space left" in why or "read-only" in why
    assert str(site.state_dir / "runs") in why
    ask(first, b="down")
    first.wait_for("b", DOWN)
    os.kill(first.instance("a").process.pid, signal.SIGKILL)
    eventually(lambda: "Exited" in [e.reason for e in first.events("a")], "the exit to be seen")
    kept = first.instance("c").process.pid

    # The next daemon takes back what runs, and only that.
    first.end(signal.SIGKILL)
    second = start(site, space)
    assert second.instance("c").process.pid == kept
    failed(second, "d")
    assert "Traceback" not in first.log.read_text() + second.log.read_text()
    ask(second, c="down")
    second.wait_for("c", DOWN)
    assert kept not in site.processes()

    mend()
    for instance_id in "ad":
        second.wait_for(instance_id, UP)
    second.update(b="up")
    second.wait_for("b", UP)
    running = sorted(i.process.pid for i in second.instances().values() if i.process.pid)
    assert sorted(site.processes()) == running
    second.end(signal.SIGKILL)
    third = start(site, space)
    third.wait_for("d", UP)
    assert sorted(site.processes()) == running, "every record is there again"


def test_a_record_that_could_not_be_voided_is_voided_later(site: Site, space: MountSpace) -> None:
    space.mount_tmpfs(site.state_dir, "400k")
    write(site, "ab")
    daemon = start(site, space)
    daemon.wait_for_all(UP)
    mend = read_only(site, space)
    daemon.update(a="down", b="down")
    daemon.wait_for_all(DOWN)
    runs = space.outside(site.state_dir) / "runs"
    assert len(list(runs.glob("*.json"))) == 2
    said = "cannot void the runtime record"
    eventually(lambda: said in daemon.log.read_text(), "it to be said")
    assert daemon.log.read_text().count(said) == 1
    mend()
    daemon.update(a="up")
    daemon.wait_for("a", UP)
    assert [file.name for file in runs.glob("*.json")] == ["a.json"]


@pytest.mark.parametrize("what", ["runs", ""])
def test_a_state_directory_that_was_cleaned_up_under_its_daemon_makes_no_second_copies(
    site: Site, what: str
) -> None:
    command = ["sleep", "100000"]
    site.write(
        [{"instance-id": "a", "command": command}, {"instance-id": "b", "command": command, "manage": "down"}]
    )
    first = site.start()
    first.update(b="up")
    first.wait_for_all(UP)
    before = {i.instance_id: i.process.pid for i in first.instances().values()}
    shutil.rmtree(site.state_dir / what)
    first.end(signal.SIGKILL)
    second = site.start()
    second.wait_for_all(UP)
    assert {i.instance_id: i.process.pid for i in second.instances().values()} == before
    assert sorted(site.processes()) == sorted(before.values())
    second.update(all="down")
    second.wait_for_all(DOWN)
    assert site.processes() == []


def test_a_state_directory_that_was_never_used_and_cannot_be_is_an_error(
    site: Site, space: MountSpace
) -> None:
    space.mount_tmpfs(site.state_dir, "400k")
    space.make_read_only(site.state_dir)
    write(site, "a")
    daemon = site.start(program=space.enter(site.folder), wait=False)
    assert daemon.process.wait(30) == 1
    said = daemon.log.read_text()
    assert "Read-only file system" in said
    assert "--state-dir" in said
    assert site.processes() == []
