"""Slow, busy and frozen daemons, and the reports of the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hostmanager.v1 import host_manager_pb2 as pb
from hostmanager_client import (
    AsyncHostManagerClient,
    Disconnected,
    HostManagerClient,
    HostManagerError,
    Transport,
    Unreachable,
)

from tests.client.slow_link import slow_link
from tests.e2e.daemon import COMMAND, PATIENCE, Daemon, Site
from tests.waiting import wait_until

EACH_WAY = 0.4  # s
INSTANCES: list[dict[str, Any]] = [
    {"instance-id": name, "command": ["sh", "-c", "echo begun; exec sleep 1000"]} for name in ("one", "two")
]

# Every command that talks to a daemon.
COMMANDS: list[tuple[str, ...]] = [
    ("status",),
    ("show", "one"),
    ("down", "one", "--wait"),
    ("up", "one", "--wait"),
    ("restart", "one", "--wait"),
    ("update", "all=up", "two=down", "--wait"),
    ("update", "two=up", "--validate-only"),
    ("reload", "--wait"),
    ("logs", "one"),
    ("events",),
    ("pull",),
    ("orphans", "list"),
    ("orphans", "remove"),
    ("manager", "status"),
    ("upgrade", "--check"),
    ("upgrade",),
    ("manager", "stop"),
    ("manager", "start", "--wait"),
]
WITHOUT_COMPOSE = (("pull",), ("orphans", "remove"))
FOLLOWING: list[tuple[str, ...]] = [("watch",), ("logs", "one", "-f"), ("events", "-f")]


def hostmanager(address: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": address}
    return subprocess.run(
        [COMMAND, *args], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


def first_line(address: str, *args: str) -> str:
    """Return the first output line of a following command."""
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": address}
    process = subprocess.Popen(
        [COMMAND, *args], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "")
    return line


@pytest.fixture
def running(site: Site) -> Daemon:
    site.write(INSTANCES)
    daemon = site.start()
    daemon.wait_for_all(pb.NEXT_ACTION_UP)
    return daemon


@pytest.mark.long
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_every_command_works_over_a_slow_link(site: Site, running: Daemon, tmp_path: Path, kind: str) -> None:
    listen = tmp_path / "far.sock" if kind == "unix" else None
    with slow_link(site.socket, EACH_WAY, listen=listen) as address:
        for command in COMMANDS:
            done = hostmanager(address, *command)
            # Without compose files, the daemon refuses commands for compose services.
            expected = 5 if command in WITHOUT_COMPOSE else 0
            assert (command, done.returncode, done.stderr) == (command, expected, done.stderr)
        for command in FOLLOWING:
            assert first_line(address, *command)
        completed = subprocess.run(
            [COMMAND], env={**os.environ, "HOSTMANAGER_ADDRESS": address, "COMP_CWORD": "2",
                            "COMP_WORDS": "hostmanager show o", "_HOSTMANAGER_COMPLETE": "bash_complete"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert completed.stdout == "plain,one\n"
        assert hostmanager(address, "die", "--yes").returncode == 0


def restart(daemon: Daemon) -> bool:
    """Restart an instance, to produce events and log lines."""
    return bool(daemon.stub.Restart(pb.RestartRequest(instance_ids=["one"]), timeout=PATIENCE).generations)


class Frozen:
    """A context in which a daemon is stopped by SIGSTOP."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def __enter__(self) -> None:
        os.kill(self.daemon.pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self.daemon.pid, signal.SIGCONT)


HASTY = Transport(connect=0.5, keepalive=0.5, ping_timeout=0.5)


@pytest.mark.parametrize("stream", ["watch", "watch_events", "tail_logs"])
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_every_stream_detects_a_frozen_daemon(site: Site, running: Daemon, stream: str, kind: str) -> None:
    """The stream resumes after SIGCONT."""
    lost, back, first = threading.Event(), threading.Event(), threading.Event()

    def on_connection(change: object) -> None:
        (lost if isinstance(change, Disconnected) else back).set()

    def follow() -> None:
        with HostManagerClient(str(site.socket), transport=HASTY) as client:
            for _ in _stream(client, stream, on_connection):
                first.set()
                if back.is_set():
                    return

    async def follow_async() -> None:
        async with AsyncHostManagerClient(str(site.socket), transport=HASTY) as client:
            async for _ in _stream(client, stream, on_connection):
                first.set()
                if back.is_set():
                    return

    thread = threading.Thread(target=follow if kind == "sync" else lambda: asyncio.run(follow_async()))
    thread.start()
    if stream == "watch_events":
        wait_until(lambda: restart(running) and first.wait(0.5), "an event")
    assert first.wait(PATIENCE)
    with Frozen(running):
        assert lost.wait(PATIENCE)
    wait_until(lambda: restart(running) and not _lives(thread), "the stream to go on")


def _lives(thread: threading.Thread) -> bool:
    thread.join(0.5)
    return thread.is_alive()


def _stream(client: Any, name: str, on_connection: Any) -> Any:
    if name == "tail_logs":
        return client.tail_logs("one", follow=True, on_connection=on_connection)
    return getattr(client, name)(heartbeat=3600.0, on_connection=on_connection)


def test_every_command_reports_a_frozen_daemon(site: Site, running: Daemon) -> None:
    with Frozen(running):
        commands = [("status",), ("up", "one"), ("logs", "-f", "one"), ("watch", "--json"), ("events", "-f")]
        with ThreadPoolExecutor(len(commands)) as pool:
            results = list(pool.map(lambda command: hostmanager(str(site.socket), *command), commands))
    for done in results:
        assert done.returncode == 3
        assert "does not answer. It may be stopped (SIGSTOP" in done.stderr
        assert "SETTINGS" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("command", FOLLOWING, ids=lambda command: command[0])
def test_the_command_line_notices_a_frozen_daemon_within_45_s(
    site: Site, running: Daemon, command: tuple[str, ...]
) -> None:
    if command[0] == "events":
        # Past events come from a list: the first may be printed before the stream is open, and a daemon that
        # freezes then is an error, not a lost connection.
        command = (*command, "--lines", "0")
    environment = {**os.environ, "HOSTMANAGER_ADDRESS": str(site.socket)}
    process = subprocess.Popen(
        [COMMAND, *command, "--json"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = threading.Thread(target=process.stdout.readline)
    first.start()
    wait_until(lambda: restart(running) and not _lives(first), "the first line of the stream")
    try:
        with Frozen(running):
            began = time.monotonic()
            while json.loads(process.stdout.readline()).get("type") != "disconnected":
                pass
            print(f"{command[0]}: noticed after {time.monotonic() - began:.1f} s")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Run 20 busy processes at a lower priority, like the data reductions of an observatory."""
    spinning = [
        subprocess.Popen(["nice", "-n", "5", sys.executable, "-c", "while True: pass"]) for _ in range(20)
    ]
    yield
    for process in spinning:
        process.kill()
        process.wait()


@pytest.mark.long
def test_daemons_on_a_busy_machine_are_reachable(tmp_path: Path, busy_machine: None) -> None:
    sites = [Site(tmp_path / str(number)) for number in range(5)]
    try:
        for site in sites:
            site.folder.mkdir()
            site.write([dict(one) for one in INSTANCES])
            site.start()
        failed: list[HostManagerError] = []

        def call(number: int) -> None:
            with HostManagerClient(str(sites[number % 5].socket)) as client:
                try:
                    client.get_status()
                except Unreachable as error:
                    failed.append(error)

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(call, range(600)))
        assert failed == []
    finally:
        for site in sites:
            site.clean_up()
