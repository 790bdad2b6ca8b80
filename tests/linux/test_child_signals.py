"""SIGCHLD as a descriptor, and the signal mask of programs that the daemon starts."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hostmanager_server
import pytest
from hostmanager_server.linux import child_signals

ROOT = Path(__file__).resolve().parents[2]
SHOWS_ITS_MASK = ["sed", "-n", "s/SigBlk:[[:space:]]*//p", "/proc/self/status"]
SIGCHLD_BIT = 1 << (signal.SIGCHLD - 1)


def run_alone(check: Callable[[int], None]) -> None:
    """Run a check in a process with one thread: threads of a test runner would take its signals."""
    code = f"from {__name__} import {check.__name__} as check, with_descriptor; with_descriptor(check)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def with_descriptor(check: Callable[[int], None]) -> None:
    child_signals.block()
    descriptor = child_signals.open_descriptor()
    assert descriptor is not None
    check(descriptor)


@pytest.fixture
def blocked() -> Iterator[None]:
    child_signals.block()
    yield
    child_signals.unblock()


def is_readable(descriptor: int, timeout: float = 0) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])


def blocks_sigchld() -> bool:
    """Return whether a program that this thread starts blocks the signal."""
    shown = subprocess.run(SHOWS_ITS_MASK, stdout=subprocess.PIPE, check=True)
    return bool(int(shown.stdout, 16) & SIGCHLD_BIT)


def check_readable_until_cleared(descriptor: int) -> None:
    assert not is_readable(descriptor)
    subprocess.run(["true"], check=True)
    assert is_readable(descriptor, 30)
    child_signals.clear(descriptor)
    assert not is_readable(descriptor)
    child_signals.clear(descriptor)


def test_the_descriptor_is_readable_from_an_end_of_a_child_until_it_is_cleared() -> None:
    run_alone(check_readable_until_cleared)


def check_no_handler(descriptor: int) -> None:
    called: list[int] = []
    signal.signal(signal.SIGCHLD, lambda signum, frame: called.append(signum))
    subprocess.run(["true"], check=True)
    assert is_readable(descriptor, 30)
    assert not called
    with child_signals.unblocked():
        subprocess.run(["true"], check=True)
    assert called


def test_an_end_wakes_no_handler() -> None:
    run_alone(check_no_handler)


@pytest.mark.usefixtures("blocked")
def test_programs_get_the_signal_when_they_start_unblocked() -> None:
    found: list[bool] = []

    def start() -> None:  # on a thread that inherited the mask
        found.append(blocks_sigchld())
        with child_signals.unblocked():
            found.append(blocks_sigchld())
        found.append(blocks_sigchld())

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found == [True, False, True]


def test_the_daemon_starts_every_program_unblocked() -> None:
    server = Path(hostmanager_server.__file__).parent
    starts = re.compile(r"^(.*)\n.*\bsubprocess\.(?:run|Popen)\(", re.MULTILINE)
    found = [(path, match[1]) for path in server.rglob("*.py") for match in starts.finditer(path.read_text())]
    assert len(found) >= 6
    assert [path for path, before in found if "child_signals.unblocked()" not in before] == []
