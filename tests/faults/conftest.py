"""Every test here gets a site of its own, and leaves neither a process nor a zombie behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Site, eventually
from tests.faults.ground import MountSpace, zombies


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    living = [daemon for daemon in site.daemons if daemon.process.poll() is None]
    for daemon in living:
        os.kill(daemon.pid, signal.SIGCONT)
    try:
        # One that ended just now may not have been seen to yet.
        eventually(lambda: not any(zombies(daemon) for daemon in living), "every ended child to be reaped")
    finally:
        site.leave_nothing()


@pytest.fixture
def space() -> Iterator[MountSpace]:
    space = MountSpace()
    yield space
    space.close()
