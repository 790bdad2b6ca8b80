"""Benchmark of the latency of other clients, and the daemon's memory, under a hostile client."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import grpc
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager.v1 import host_manager_pb2_grpc as pb_grpc

from benchmarks.hostile_loads import LOADS
from benchmarks.managers import HostManager
from benchmarks.table import Row, percentile

INSTANCES = 100
LINES = 100_000
PAUSE = 0.01  # s between two calls of the other client
SLOWER = 5  # times the idle p99 of the same run
LARGER = 64 * 1.048576  # MB
LONGEST = 30.0  # s for an answer


def hostile(*, quick: bool) -> list[Row]:
    """Measure each load on a new daemon, against the idle figures of the same daemon."""
    return [row for name in LOADS for row in _under(name, 2.0 if quick else 4.0)]


def _under(load: str, seconds: float) -> list[Row]:
    what = (LOADS[load].__doc__ or "").rstrip(".")
    with HostManager(INSTANCES) as ours:
        logs = ours.folder / "state" / "logs"
        logs.mkdir(exist_ok=True)
        (logs / "i0000.log").write_text("".join(f"{number:099}\n" for number in range(LINES)))
        _waits(ours, 0.5)  # the first calls load modules
        idle, before = _waits(ours, seconds), _memory(ours.pid)
        with _largest(ours.pid) as largest, _attack(load, ours.socket):
            waits = _waits(ours, 2 * seconds)
            admin = _new_connection(ours.socket.with_name("hm-admin.sock"))
    return [
        Row(f"{what}: another client's p99", "ms", percentile(waits, 0.99),
            {"idle": percentile(idle, 0.99)}, reach=SLOWER, reach_of="idle",
            note=f"p50 {median(waits):.3g} ms, idle {median(idle):.3g} ms; longest {max(waits):.0f} ms"),
        Row(f"{what}: the daemon's memory", "MB over idle", max(largest) - before, reach=LARGER,
            note=f"idle {before:.0f} MB"),
        Row(f"{what}: a new admin connection to its first answer", "ms", admin, reach=LONGEST * 1e3),
    ]  # fmt: skip


def _waits(daemon: HostManager, seconds: float) -> list[float]:
    """Return the time to each answer, in ms; a refused call is repeated at once."""
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        while time.monotonic() - began < LONGEST:
            with suppress(grpc.RpcError):
                daemon.stub.GetStatus(pb.GetStatusRequest(), timeout=LONGEST)
                break
        found.append((time.monotonic() - began) * 1e3)
        time.sleep(PAUSE)
    return found


def _new_connection(path: Path) -> float:
    """Return the time from connecting to an answer, in ms; twice the limit without an answer."""
    began = time.monotonic()
    with grpc.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            pb_grpc.HostManagerServiceStub(channel).GetStatus(pb.GetStatusRequest(), timeout=LONGEST)
        except grpc.RpcError as error:
            print(f"cannot connect as an admin: {error}", file=sys.stderr)
            return LONGEST * 2e3
    return (time.monotonic() - began) * 1e3


@contextmanager
def _attack(load: str, socket: Path) -> Iterator[None]:
    """Run a load in another process."""
    command = [sys.executable, "-m", "benchmarks.hostile_loads", load, str(socket)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"begun\n":
                raise RuntimeError(f"cannot run the load {load!r}: its process ended early")
            yield
        finally:
            process.kill()


@contextmanager
def _largest(pid: int) -> Iterator[list[float]]:
    """Sample the memory of a process every 0.1 s; yields the list of samples, in MB."""
    samples = [_memory(pid)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            samples.append(_memory(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _memory(pid: int) -> float:
    """Return the resident memory of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(f"cannot read the memory of process {pid}: no VmRSS in /proc")
