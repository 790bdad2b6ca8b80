"""A daemon that is frozen by SIGSTOP, and continues later."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon, Site
from tests.waiting import wait_until

UP = pb.NEXT_ACTION_UP


def start_three(site: Site) -> Daemon:
    restart = {"backoff": {"initial": 0}}
    site.write([{"instance-id": i, "command": ["sleep", "100000"], "restart": restart} for i in "abc"])
    daemon = site.start()
    daemon.wait_for_all(UP)
    return daemon


def is_frozen(daemon: Daemon) -> bool:
    return Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def pids(daemon: Daemon) -> dict[str, int]:
    return {i: instance.process.pid for i, instance in daemon.instances().items()}


def assert_restarted_once(daemon: Daemon, before: dict[str, int], *killed: str) -> None:
    wait_until(lambda: all(pids(daemon)[i] not in (0, before[i]) for i in killed), "new processes")
    daemon.wait_for_all(UP)
    for instance_id, instance in daemon.instances().items():
        reasons = [event.reason for event in daemon.events(instance_id)]
        expected = 1 if instance_id in killed else 0
        assert (instance.restart_count, reasons.count("Exited")) == (expected, expected)
        assert (instance.process.pid == before[instance_id]) is (not expected)


def test_exits_during_a_freeze_are_handled_once(site: Site) -> None:
    daemon = start_three(site)
    before = pids(daemon)
    watch = daemon.stub.WatchStatus(pb.WatchStatusRequest(), timeout=60)
    next(iter(watch))
    os.kill(daemon.pid, signal.SIGSTOP)
    wait_until(lambda: is_frozen(daemon), "the daemon to freeze")
    for instance_id in ("a", "b"):
        os.kill(before[instance_id], signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as late:
        daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=0.3)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # An operator takes the daemon for dead.
    second = site.start(wait=False)
    assert second.process.wait(30) == 1
    assert f"the daemon with pid {daemon.pid} holds it" in second.log.read_text()
    os.kill(daemon.pid, signal.SIGCONT)
    assert_restarted_once(daemon, before, "a", "b")
    now = pids(daemon)
    shown = dict(before)
    for message in watch:
        shown.update((i.instance_id, i.process.pid) for i in message.delta.instances)
        if shown == now:
            break
    watch.cancel()
    assert shown == now


def test_a_daemon_that_freezes_while_handling_an_exit_continues_there(site: Site) -> None:
    site.environ = {**os.environ, "HOSTMANAGER_FAILPOINTS": "exit_observed=freeze"}
    daemon = start_three(site)
    before = pids(daemon)
    os.kill(before["a"], signal.SIGKILL)
    wait_until(lambda: is_frozen(daemon), "the daemon to freeze")
    os.kill(before["b"], signal.SIGKILL)
    os.kill(daemon.pid, signal.SIGCONT)
    assert_restarted_once(daemon, before, "a", "b")
