"""Watches by a thousand clients, two hundred of which never read."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from hostmanager.v1 import host_manager_pb2 as pb

from tests.e2e.daemon import Daemon, Site
from tests.waiting import wait_until

WATCHERS, STALLED = 1000, 200
INSTANCES = 20

# Opens streams, reads each until its final state, and prints "started" and "converged".
READERS = """
import asyncio, sys
import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

address, count, final = sys.argv[1], int(sys.argv[2]), sys.argv[3]

async def read(stub, started):
    down = set()
    async for message in stub.WatchStatus(pb.WatchStatusRequest()):
        if not started.done():
            started.set_result(None)
        changed = list(message.snapshot.instances) + list(message.delta.instances)
        for instance in changed:
            if instance.next_action == pb.NEXT_ACTION_DOWN and instance.generation >= int(final):
                down.add(instance.instance_id)
            else:
                down.discard(instance.instance_id)
        if len(down) == int(sys.argv[4]):
            return

async def main():
    own = [("grpc.use_local_subchannel_pool", 1)]  # a separate connection for each channel
    channels = [grpc.aio.insecure_channel(address, options=own) for _ in range(16)]
    stubs = [pb_grpc.HostManagerServiceStub(channel) for channel in channels]
    loop = asyncio.get_running_loop()
    started = [loop.create_future() for _ in range(count)]
    tasks = [asyncio.ensure_future(read(stubs[n % 16], started[n])) for n in range(count)]
    await asyncio.gather(*started)
    print("started", flush=True)
    await asyncio.gather(*tasks)
    print("converged", flush=True)
    for channel in channels:
        await channel.close()

asyncio.run(main())
"""

# Opens streams, then stops itself with SIGSTOP, so that the whole process reads no byte.
STALLERS = """
import asyncio, os, signal, sys
import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

async def main():
    own = [("grpc.use_local_subchannel_pool", 1)]  # a separate connection for each channel
    channels = [grpc.aio.insecure_channel(sys.argv[1], options=own) for _ in range(4)]
    stubs = [pb_grpc.HostManagerServiceStub(channel) for channel in channels]
    calls = [stubs[n % 4].WatchStatus(pb.WatchStatusRequest()) for n in range(int(sys.argv[2]))]
    await asyncio.gather(*(call.read() for call in calls))
    print("started", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(main())
"""


def memory(daemon: Daemon) -> int:
    """Return the resident memory of the daemon in MiB."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_thousand_watchers_of_which_two_hundred_never_read(site: Site) -> None:
    site.write([{"instance-id": f"i{n:02}", "command": ["sleep", "100000"]} for n in range(INSTANCES)])
    daemon = site.start("--quiet")
    daemon.wait_for_all(pb.NEXT_ACTION_UP)
    address = f"unix:{site.socket}"
    rounds = 15
    final = 1 + 2 * rounds + 1  # the generation of the last request below
    stalled = run(STALLERS, address, str(STALLED))
    readers = run(READERS, address, str(WATCHERS - STALLED), str(final), str(INSTANCES))
    try:
        assert line(stalled) == "started"
        assert line(readers) == "started"
        before = memory(daemon)
        for _ in range(rounds):
            daemon.update(all="down")
            daemon.update(all="up")  # the daemon keeps answering unary calls
        daemon.update(all="down")
        assert line(readers) == "converged"
        assert readers.wait(30) == 0
        daemon.wait_for_all(pb.NEXT_ACTION_DOWN)
        # The daemon sends each stalled reader at most the flow-control window, 4 MiB.
        assert memory(daemon) - before < STALLED * 4
    finally:
        for process in (stalled, readers):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    # The daemon has released the places of the ended watchers for new watchers.
    again = run(READERS, address, "50", str(final), str(INSTANCES))
    assert line(again) == "started"
    assert line(again) == "converged"
    assert again.wait(30) == 0
    if again.stdout is not None:
        again.stdout.close()


def test_a_client_that_vanishes_frees_its_streams(site: Site) -> None:
    site.write([])
    daemon = site.start("--max-watchers", "3")
    address = f"unix:{site.socket}"
    holder = run(STALLERS, address, "3")
    assert line(holder) == "started"
    with pytest.raises(grpc.RpcError) as failure:
        next(iter(daemon.stub.WatchStatus(pb.WatchStatusRequest(), timeout=10)))
    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "max-watchers=3" in str(failure.value.details())
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    if holder.stdout is not None:
        holder.stdout.close()

    def accepted() -> bool:
        stream = daemon.stub.WatchStatus(pb.WatchStatusRequest(), timeout=10)
        try:
            return next(iter(stream)).HasField("snapshot")
        except grpc.RpcError:
            return False
        finally:
            stream.cancel()

    wait_until(accepted, "a free place for a watcher")


def test_silent_connections_do_not_block_others(site: Site) -> None:
    site.write([])
    daemon = site.start()
    silent = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    for connection in silent:
        connection.connect(str(site.socket))
    assert daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=20).revision
    for connection in silent:
        connection.close()
