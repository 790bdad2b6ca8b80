"""Upgrades of a running daemon, which keep its pid, agents and watchers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import HostManagerClient, HostState
from hostmanager_server.linux.pidfds import read_stat

from tests.e2e.daemon import COMMAND, Daemon, Site
from tests.e2e.lab import Lab, entry, is_up, wait_for
from tests.waiting import wait_until

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN
SLEEP = ["sleep", "100000"]


@pytest.fixture
def daemon(site: Site) -> Daemon:
    site.write([{"instance-id": i, "command": SLEEP} for i in "abc"])
    daemon = site.start()
    daemon.wait_for_all(UP)
    return daemon


def epoch(daemon: Daemon) -> str:
    """Return the epoch of the answering daemon, as soon as a daemon answers."""

    def ask() -> str:
        try:
            return daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=5).manager.epoch
        except grpc.RpcError:
            return ""

    return wait_until(ask, "the daemon to answer")


def wait_upgraded(daemon: Daemon, before: str) -> None:
    wait_until(lambda: epoch(daemon) != before, "the new daemon to answer")


def pids(daemon: Daemon) -> dict[str, int]:
    return {i: instance.process.pid for i, instance in daemon.instances().items()}


def zombies(parent: int) -> list[str]:
    stats = {name: read_stat(name) for name in os.listdir("/proc") if name.isdecimal()}
    return [name for name, stat in stats.items() if stat and stat.parent == parent and stat.state == "Z"]


def test_agents_keep_running_and_stay_children_of_the_daemon(daemon: Daemon) -> None:
    daemon.update(b="down")
    daemon.wait_for("b", DOWN)
    before = pids(daemon)
    first = epoch(daemon)
    daemon.stub.Upgrade(pb.UpgradeRequest(expected_epoch=first), timeout=60)
    wait_upgraded(daemon, first)
    assert daemon.process.poll() is None
    assert pids(daemon) == before
    assert daemon.instance("b").next_action == DOWN
    assert next(e.reason for e in daemon.events() if e.kind == pb.EVENT_KIND_DAEMON) == "Upgraded"
    # Only the parent of a process learns its exit code.
    os.kill(before["a"], signal.SIGUSR1)
    ended = wait_until(lambda: daemon.instance("a").last_exit, "the exit of the agent")
    assert wait_until(lambda: daemon.instance("a").last_exit.signal, "the signal of the exit") == "SIGUSR1", (
        ended
    )
    assert daemon.end() == 0
    assert daemon.site.processes() == []


@contextmanager
def followed(daemon: Daemon) -> Iterator[list[HostState]]:
    """Collect the states of a watcher up to a state of the last daemon."""
    states: list[HostState] = []
    with HostManagerClient(f"unix:{daemon.site.socket}") as client:

        def follow() -> None:
            states.extend(update.state for update in client.watch())

        follower = threading.Thread(target=follow)
        follower.start()
        wait_until(lambda: states, "the first state")
        yield states
        last = epoch(daemon)
        wait_until(lambda: states[-1].epoch == last, "a state of the last daemon")
    follower.join()


def test_an_agent_that_wants_to_end_with_its_parent_is_restarted(site: Site) -> None:
    site.write([{"instance-id": "a", "command": ["setpriv", "--pdeathsig", "TERM", *SLEEP]}])
    daemon = site.start()
    daemon.wait_for("a", UP)
    before, first = pids(daemon), epoch(daemon)
    daemon.stub.Upgrade(pb.UpgradeRequest(expected_epoch=first), timeout=60)
    wait_upgraded(daemon, first)
    wait_until(lambda: pids(daemon)["a"] not in (0, before["a"]), "the replacement")
    assert daemon.instance("a").last_exit.signal == "SIGTERM"
    assert "EndedUnseen" in {event.reason for event in daemon.events()}


def test_a_watcher_sees_no_false_state(daemon: Daemon) -> None:
    before = pids(daemon)
    with followed(daemon) as states:
        first = epoch(daemon)
        daemon.process.send_signal(signal.SIGUSR2)
        wait_upgraded(daemon, first)
    for state in states:
        assert state.manager.state == pb.MANAGER_STATE_RUNNING
        assert {i: v.process.pid for i, v in state.instances.items()} == before
        assert {v.next_action for v in state.instances.values()} == {UP}


def test_compose_services_are_known_when_the_new_daemon_answers(lab: Lab) -> None:
    lab.write({"ocs-one": {}, "two": {}})
    lab.site.write([entry("one"), {"instance-id": "host", "command": SLEEP}])
    daemon = lab.serve()
    wait_for(daemon, "one", is_up)
    daemon.wait_for("host", UP)
    before = lab.life("ocs-one")
    with followed(daemon) as states:
        first = epoch(daemon)
        daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
        wait_upgraded(daemon, first)
    actions = {i: {state.instances[i].next_action for state in states} for i in ("one", "two", "host")}
    assert actions == {"one": {UP}, "two": {DOWN}, "host": {UP}}
    assert lab.life("ocs-one") == before


def test_an_agent_that_ends_during_the_start_of_the_new_code_has_its_exit_code(site: Site) -> None:
    # The agent ends after the old daemon is gone, so that only the new daemon can see the exit.
    command = ["sh", "-c", "read x < go; exit 7"]
    site.write([{"instance-id": "a", "command": command, "restart": {"when": "never"}}])
    os.mkfifo(site.folder / "go")
    daemon = site.start()
    daemon.wait_for("a", UP)
    pid = daemon.instance("a").process.pid
    first = epoch(daemon)
    daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
    wait_until(lambda: not _serves(daemon), "the old daemon to be gone")
    (site.folder / "go").write_text("\n")
    wait_until(lambda: (stat := read_stat(pid)) is None or not stat.alive, "the agent to end")
    wait_upgraded(daemon, first)
    wait_until(lambda: daemon.instance("a").last_exit.pid == pid, "the exit in the status")
    assert daemon.instance("a").last_exit.code == 7
    assert zombies(daemon.pid) == []


def _serves(daemon: Daemon) -> bool:
    try:
        daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
    except grpc.RpcError:
        return False
    return True


def test_probes_of_the_old_daemon_are_reaped(site: Site) -> None:
    probe = {"command": ["sh", "-c", "echo > asked; exec sleep 100000"], "timeout": "1000s"}
    site.write([{"instance-id": "a", "command": SLEEP, "ready": probe, "start-timeout": "1000s"}])
    daemon = site.start()
    wait_until((site.folder / "asked").exists, "the start of the probe")
    first = epoch(daemon)
    for _ in range(2):
        daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
        wait_upgraded(daemon, first)
        first = epoch(daemon)
        # The upgrade does not make the instance ready.
        assert daemon.instance("a").next_action == pb.NEXT_ACTION_WAIT_START
    wait_until(lambda: zombies(daemon.pid) == [], "the end of all zombies")


def test_no_other_daemon_gets_the_state_directory_during_an_upgrade(daemon: Daemon) -> None:
    first = epoch(daemon)
    site = daemon.site
    rival: list[str | Path] = [COMMAND, "serve", site.file, "--state-dir", site.state_dir]
    rival += ["--listen", "unix:rival"]
    ended = threading.Event()
    successes: list[str] = []

    def try_again() -> None:
        while not ended.is_set():
            done = subprocess.run(rival, cwd=site.folder, capture_output=True, text=True, check=False)
            successes.extend([done.stderr] if str(daemon.pid) not in done.stderr else [])

    thread = threading.Thread(target=try_again)
    thread.start()
    try:
        daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
        wait_upgraded(daemon, first)
    finally:
        ended.set()
        thread.join()
    assert successes == []


def test_code_that_cannot_start_does_not_replace_the_daemon(site: Site) -> None:
    site.write([{"instance-id": "a", "command": SLEEP}])
    launcher = site.folder / "launcher.py"
    launcher.write_text("from hostmanager_client.cli import main; main()\n")
    daemon = site.start(program=[sys.executable, launcher])
    daemon.wait_for("a", UP)
    before = pids(daemon)
    launcher.write_text("import nothing_of_this_name\n")
    with pytest.raises(grpc.RpcError) as refusal:
        daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "nothing_of_this_name" in str(refusal.value.details())
    daemon.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "nothing_of_this_name" in daemon.log.read_text(), "the error in the log")
    assert pids(daemon) == before


def test_a_signal_to_end_is_not_lost_in_an_upgrade(daemon: Daemon) -> None:
    daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0
    assert daemon.site.processes() == []


def test_an_ending_daemon_refuses_to_upgrade(site: Site) -> None:
    stubborn = "trap '' INT; touch deaf; while :; do sleep 100000; done"
    site.write([{"instance-id": "a", "command": ["sh", "-c", stubborn], "stop-timeout": 60}])
    daemon = site.start()
    wait_until((site.folder / "deaf").exists, "the agent to ignore SIGINT")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for("a", pb.NEXT_ACTION_WAIT_DEAD)
    with pytest.raises(grpc.RpcError) as refusal:
        daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "was asked to end" in str(refusal.value.details())
    assert "upgrading" not in daemon.log.read_text()


def test_the_limit_on_open_files_of_agents_stays_as_it_was(site: Site) -> None:
    site.write([{"instance-id": "a", "command": ["sh", "-c", "ulimit -Sn > files; exec sleep 100000"]}])
    limit = site.folder / "files"
    daemon = site.start(program=["sh", "-c", 'ulimit -Sn 300 && exec "$@"', "sh", COMMAND])
    assert wait_until(lambda: limit.exists() and limit.read_text(), "the limit of the agent") == "300\n"
    limit.unlink()
    first = epoch(daemon)
    daemon.stub.Upgrade(pb.UpgradeRequest(), timeout=60)
    wait_upgraded(daemon, first)
    daemon.stub.Restart(pb.RestartRequest(instance_ids=["a"]), timeout=20)
    assert wait_until(lambda: limit.exists() and limit.read_text(), "the limit of the agent") == "300\n"


def test_the_command_waits_for_the_new_daemon(daemon: Daemon) -> None:
    address = f"unix:{daemon.site.socket}"
    done = subprocess.run(
        [COMMAND, "upgrade", "--address", address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"(pid {daemon.pid})" in done.stdout
    assert Path(f"/proc/{daemon.pid}").exists()
