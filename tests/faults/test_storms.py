"""Overload: flapping targets, and agents that crash as fast as they can."""

from __future__ import annotations

import threading

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Site

UP, DOWN = pb.NEXT_ACTION_UP, pb.NEXT_ACTION_DOWN


@pytest.mark.parametrize("last", ["up", "down"])
def test_targets_that_flap_end_as_the_last_acknowledged(site: Site, last: str) -> None:
    slow = "trap 'sleep 0.1; exit 0' INT; while :; do sleep 0.05; done"
    site.write([{"instance-id": i, "command": ["sh", "-c", slow]} for i in "abc"])
    daemon = site.start("--quiet")
    daemon.wait_for_all(UP)
    failures: list[grpc.RpcError] = []

    def flap() -> None:
        try:
            for _ in range(40):
                daemon.update(all="down")
                daemon.update(all="up")
        except grpc.RpcError as error:
            failures.append(error)

    clients = [threading.Thread(target=flap) for _ in range(3)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert failures == []
    daemon.update(all=last)
    daemon.wait_for_all(UP if last == "up" else DOWN)
    running = sorted(i.process.pid for i in daemon.instances().values() if i.process.pid)
    assert len(running) == (3 if last == "up" else 0)
    main_processes = {pid for pid in site.processes() if pid in running}
    assert main_processes == set(running)
    if last == "down":
        assert site.processes() == []


def test_the_daemon_answers_while_agents_crash_as_fast_as_they_can(site: Site) -> None:
    restart = {"backoff": {"initial": 0}}
    crash = [{"instance-id": i, "command": ["false"], "restart": restart} for i in "abc"]
    site.write([*crash, {"instance-id": "calm", "command": ["sleep", "100000"]}])
    daemon = site.start("--quiet")
    calm = daemon.wait_for("calm", UP).process.pid

    def crashed() -> int:
        return min(daemon.instance(i).restart_count for i in "abc")

    while crashed() < 20:
        assert daemon.instance("calm").process.pid == calm
    daemon.update(a="down", b="down", c="down")
    for instance_id in "abc":
        daemon.wait_for(instance_id, DOWN)
    assert site.processes() == [calm]
